from pathlib import Path

from django.db import migrations, models

SQL = (Path(__file__).parent.parent / "sql" / "epoch.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("changelog", "0002_functions")]

    operations = [
        migrations.AddField(
            model_name="platformstate",
            name="tail",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.RunSQL(SQL),
    ]
