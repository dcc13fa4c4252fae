from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("releases", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="release",
            name="artifact",
            field=models.TextField(null=True),
        ),
        migrations.AddField(
            model_name="release",
            name="artifact_size",
            field=models.BigIntegerField(null=True),
        ),
    ]
