-- A small double of control's agent_v1: the same functions and JSON, over one table that a test fills.
CREATE SCHEMA agent_v1;
CREATE TABLE agent_v1.state (epoch uuid NOT NULL DEFAULT gen_random_uuid(), revision bigint NOT NULL DEFAULT 0,
                             tail bigint NOT NULL DEFAULT 0, clock_ahead interval NOT NULL DEFAULT '0',
                             draining boolean NOT NULL DEFAULT false, confirmed text,
                             check_requested bigint NOT NULL DEFAULT 0, check_repair boolean NOT NULL DEFAULT false);
INSERT INTO agent_v1.state DEFAULT VALUES;
CREATE TABLE agent_v1.site (slug text PRIMARY KEY, revision bigint NOT NULL, document jsonb NOT NULL);
CREATE TABLE agent_v1.received (number bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
                                report jsonb NOT NULL);
CREATE TABLE agent_v1.beat (number bigserial PRIMARY KEY);

CREATE FUNCTION agent_v1.head() RETURNS jsonb LANGUAGE sql AS
$$ SELECT jsonb_build_object('epoch', epoch, 'revision', revision, 'now', clock_timestamp() + clock_ahead)
   FROM agent_v1.state $$;

CREATE FUNCTION agent_v1.heartbeat() RETURNS jsonb LANGUAGE sql AS
$$ INSERT INTO agent_v1.beat DEFAULT VALUES; SELECT agent_v1.head() $$;

CREATE FUNCTION agent_v1.desired(since bigint) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object(
        'epoch', s.epoch, 'revision', s.revision, 'tail', s.tail, 'full', f.read_all,
        'node', jsonb_build_object('name', 'node', 'draining', s.draining, 'confirmed', s.confirmed,
                                   'check', s.check_requested, 'check_repair', s.check_repair),
        'sites', coalesce(
            (SELECT jsonb_agg(document || jsonb_build_object('revision', revision) ORDER BY revision) FROM agent_v1.site
             WHERE f.read_all AND coalesce((document->>'present')::boolean, true)
                OR NOT f.read_all AND revision > since), '[]'))
    FROM agent_v1.state s, LATERAL (SELECT since <= 0 OR since > s.revision OR since < s.tail AS read_all) f
$$;

CREATE FUNCTION agent_v1.report(report jsonb) RETURNS void LANGUAGE sql AS
$$ INSERT INTO agent_v1.received (report) VALUES (report); SELECT pg_notify('tenantry_report', 'node') $$;

-- What a person asks of the node: sets the columns of `state` named in `wanted`, a check gets the next number.
CREATE FUNCTION agent_v1.ask(wanted jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE asked agent_v1.state;
BEGIN
    UPDATE agent_v1.state SET
        revision = revision + 1,
        draining = coalesce((wanted->>'draining')::boolean, draining),
        confirmed = coalesce(wanted->>'confirmed', confirmed),
        check_requested = check_requested + CASE WHEN wanted ? 'check_repair' THEN 1 ELSE 0 END,
        check_repair = coalesce((wanted->>'check_repair')::boolean, check_repair)
    RETURNING * INTO asked;
    PERFORM pg_notify('tenantry', jsonb_build_object('revision', asked.revision, 'epoch', asked.epoch,
                                                     'type', 'node.check', 'site', NULL)::text);
    RETURN asked.revision;
END $$;

-- What control does in one transaction: the row, the next revision, the notification.
CREATE FUNCTION agent_v1.put(site jsonb, quiet boolean DEFAULT false) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE head bigint; same uuid;
BEGIN
    UPDATE agent_v1.state SET revision = revision + 1 RETURNING revision, epoch INTO head, same;
    INSERT INTO agent_v1.site VALUES (site->>'slug', head, site)
        ON CONFLICT (slug) DO UPDATE SET revision = excluded.revision, document = excluded.document;
    IF NOT quiet THEN
        PERFORM pg_notify('tenantry', jsonb_build_object('revision', head, 'epoch', same, 'type', 'site.updated',
                                                         'site', site->>'slug')::text);
    END IF;
    RETURN head;
END $$;
