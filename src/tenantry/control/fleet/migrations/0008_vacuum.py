from django.db import migrations

# Every node writes its row every few seconds, and a vacuum or an analyze of a table makes every agent's connection plan
# its statements anew: at a thousand nodes that doubled the time of one change in a minute. Updates that change no
# indexed column, in pages with room, leave nothing for vacuum, and the columns by which rows are found do not change.
OPTIONS = {
    "node": {"fillfactor": 50, "autovacuum_vacuum_threshold": 10_000, "autovacuum_analyze_threshold": 1_000_000},
    "node_site": {"fillfactor": 80, "autovacuum_analyze_scale_factor": 1.0},
}


def _set(table: str) -> migrations.RunSQL:
    options = OPTIONS[table]
    values = ", ".join(f"{name} = {value}" for name, value in options.items())
    return migrations.RunSQL(f"ALTER TABLE {table} SET ({values})", f"ALTER TABLE {table} RESET ({', '.join(options)})")


class Migration(migrations.Migration):
    dependencies = [("fleet", "0007_features")]

    operations = [_set(table) for table in OPTIONS]
