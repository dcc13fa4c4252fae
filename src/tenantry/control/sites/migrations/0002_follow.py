from pathlib import Path

from django.db import migrations

SQL = (Path(__file__).parent.parent / "sql" / "follow.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [("sites", "0001_initial"), ("changelog", "0002_functions")]

    operations = [migrations.RunSQL(SQL)]
