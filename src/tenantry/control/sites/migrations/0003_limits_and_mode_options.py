from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('sites', '0002_follow'),
    ]

    operations = [
        migrations.AddField(
            model_name='site',
            name='limits',
            field=models.JSONField(db_default={}, default=dict),
        ),
        migrations.AddField(
            model_name='site',
            name='mode_options',
            field=models.JSONField(db_default={}, default=dict),
        ),
        migrations.AddField(
            model_name='site',
            name='mode_until',
            field=models.DateTimeField(null=True),
        ),
    ]
