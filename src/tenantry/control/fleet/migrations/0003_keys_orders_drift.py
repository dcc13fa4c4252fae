import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("fleet", "0002_agent_v1")]

    operations = [
        migrations.CreateModel(
            name="JoinToken",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("hash", models.CharField(max_length=64, unique=True)),
                ("created_by", models.TextField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("expires_at", models.DateTimeField()),
                ("used_at", models.DateTimeField(null=True)),
                ("node", models.TextField(null=True)),
                ("with_control", models.BooleanField(default=False)),
            ],
            options={"db_table": "join_token"},
        ),
        # Nodes that are there already get numbers too, and one that the previous release inserts still does.
        migrations.RunSQL("CREATE SEQUENCE node_number_seq", "DROP SEQUENCE node_number_seq"),
        migrations.AddField(
            "node",
            "number",
            models.BigIntegerField(
                db_default=models.Func(models.Value("node_number_seq"), function="nextval"), unique=True
            ),
        ),
        migrations.AddField("node", "sealed_key", models.TextField(db_default="", default="")),
        migrations.AddField("node", "token_hash", models.CharField(db_default="", default="", max_length=64)),
        migrations.AddField("node", "full_from", models.BigIntegerField(db_default=0, default=0)),
        migrations.AddField("node", "draining", models.BooleanField(db_default=False, default=False)),
        migrations.AddField("node", "confirmed", models.CharField(max_length=64, null=True)),
        migrations.AddField("node", "check_requested", models.BigIntegerField(db_default=0, default=0)),
        migrations.AddField("node", "check_repair", models.BooleanField(db_default=False, default=False)),
        migrations.AddField("node", "checked", models.JSONField(null=True)),
        migrations.AddField("node", "checked_at", models.DateTimeField(null=True)),
        migrations.AddField("node", "checked_id", models.BigIntegerField(db_default=0, default=0)),
        migrations.AddField("node", "notifications", models.BooleanField(null=True)),
        migrations.AddField("node", "version", models.TextField(db_default="", default="")),
        migrations.CreateModel(
            name="NodeDrift",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("site_slug", models.TextField(null=True)),
                ("kind", models.CharField(max_length=20)),
                ("path", models.TextField()),
                ("detail", models.TextField(default="")),
                ("good_at", models.DateTimeField(null=True)),
                ("found_at", models.DateTimeField()),
                ("repaired_at", models.DateTimeField(null=True)),
                ("took_seconds", models.FloatField(null=True)),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="drifts", to="fleet.node"
                    ),
                ),
            ],
            options={
                "db_table": "node_drift",
                "indexes": [models.Index(fields=["node", "-id"], name="node_drift_latest")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("repaired_at", None)),
                        fields=("node", "path", "kind"),
                        name="node_drift_open_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="NodeSecret",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("site_number", models.BigIntegerField()),
                ("sealed", models.TextField()),
                (
                    "node",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="secrets", to="fleet.node"
                    ),
                ),
            ],
            options={
                "db_table": "node_secret",
                "indexes": [models.Index(fields=["site_number"], name="node_secret_by_site")],
                "constraints": [
                    models.UniqueConstraint(fields=("node", "site_number"), name="node_secret_once")
                ],
            },
        ),
    ]
