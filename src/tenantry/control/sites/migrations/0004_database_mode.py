from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("sites", "0003_limits_and_mode_options")]

    operations = [
        migrations.AddField("site", "pending_mode", models.CharField(max_length=20, null=True)),
        migrations.AddField("site", "database_read_only", models.BooleanField(db_default=False, default=False)),
    ]
