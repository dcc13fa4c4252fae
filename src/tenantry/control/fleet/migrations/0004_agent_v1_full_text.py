from pathlib import Path

from django.db import migrations

SQL = (Path(__file__).parent.parent / "sql" / "agent_v1_0004.sql").read_text()


class Migration(migrations.Migration):
    """Replaces every function of 0002. A later change brings another full text in a migration of its own."""

    dependencies = [
        ("fleet", "0003_keys_orders_drift"),
        ("releases", "0002_artifact"),
        ("changelog", "0003_epoch_and_tail"),
    ]

    operations = [migrations.RunSQL(SQL)]
