from pathlib import Path

from django.db import migrations

SQL = (Path(__file__).parent.parent / "sql" / "agent_v1.sql").read_text()


class Migration(migrations.Migration):
    dependencies = [
        ("fleet", "0001_initial"),
        ("sites", "0002_follow"),
        ("releases", "0001_initial"),
        ("changelog", "0002_functions"),
    ]

    operations = [migrations.RunSQL(SQL)]
