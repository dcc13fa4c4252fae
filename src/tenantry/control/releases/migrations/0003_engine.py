from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('releases', '0002_artifact'),
    ]

    operations = [
        migrations.AddField(
            model_name='project',
            name='asgi',
            field=models.TextField(db_default='', default=''),
        ),
        migrations.AddField(
            model_name='project',
            name='engine',
            field=models.CharField(db_default='uwsgi', default='uwsgi', max_length=20),
        ),
        migrations.AddField(
            model_name='project',
            name='warm_paths',
            field=models.JSONField(db_default=[], default=list),
        ),
        migrations.AddField(
            model_name='release',
            name='asgi',
            field=models.TextField(db_default='', default=''),
        ),
        migrations.AddField(
            model_name='release',
            name='engine',
            field=models.CharField(db_default='uwsgi', default='uwsgi', max_length=20),
        ),
    ]
