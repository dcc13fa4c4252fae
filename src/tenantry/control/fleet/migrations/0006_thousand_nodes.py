from pathlib import Path

from django.db import migrations

SQL = (Path(__file__).parent.parent / "sql" / "agent_v1_0006.sql").read_text()


class Migration(migrations.Migration):
    """Replaces `agent_v1.heartbeat` and `agent_v1.report` of 0004; has `agent_v1.desired` of 0005 planned once."""

    dependencies = [("fleet", "0005_desired")]

    operations = [migrations.RunSQL(SQL)]
