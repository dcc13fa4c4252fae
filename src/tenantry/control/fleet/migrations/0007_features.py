from pathlib import Path

from django.db import migrations, models

SQL = (Path(__file__).parent.parent / "sql" / "agent_v1_0007.sql").read_text()


class Migration(migrations.Migration):
    """Replaces `agent_v1.report` of 0006."""

    dependencies = [("fleet", "0006_thousand_nodes")]

    operations = [
        migrations.AddField("node", "features", models.JSONField(db_default=[], default=list)),
        migrations.RunSQL(SQL),
    ]
