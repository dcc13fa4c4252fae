from pathlib import Path

from django.db import migrations

SQL = (Path(__file__).parent.parent / "sql" / "agent_v1_0005.sql").read_text()


class Migration(migrations.Migration):
    """Replaces `agent_v1.desired` of 0004."""

    dependencies = [
        ("fleet", "0004_agent_v1_full_text"),
        ("releases", "0003_engine"),
        ("sites", "0003_limits_and_mode_options"),
    ]

    operations = [migrations.RunSQL(SQL)]
