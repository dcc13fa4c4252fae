-- What a thousand nodes do at once costs less. Replaces `heartbeat` and `report` of agent_v1_0004.sql; the contract is as
-- it was.

-- Planned once for each connection: planning it anew took two thirds of the time of an answer that holds one site. The
-- plan for everything and that for what changed are as fast with values that are not known (measured: 10,000 sites).
-- Whoever replaces the function says so again.
ALTER FUNCTION agent_v1.desired(bigint) SET plan_cache_mode = force_generic_plan;

CREATE OR REPLACE FUNCTION agent_v1.heartbeat() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    UPDATE node SET last_contact = clock_timestamp() WHERE role = session_user;
    IF NOT FOUND THEN
        PERFORM calling_node(); -- raises
    END IF;
    RETURN (
        SELECT jsonb_build_object('epoch', platform_epoch(), 'revision', revision, 'now', clock_timestamp())
        FROM platform_state
    );
END
$$;

-- Whether a report that brought a node from revision `p_before` to `p_reached` is notified of. A notification wakes every
-- process that listens in this database, the agents' included: were each of N nodes to notify of one change, PostgreSQL
-- would wake N² of them. So the reports of one change wake a thousand processes, however many nodes there are, and those
-- of the one by which the last living node has caught up; who waits looks again by itself.
CREATE FUNCTION report_is_told(p_before bigint, p_reached bigint) RETURNS boolean
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
DECLARE
    c_wakes CONSTANT float8 := 1000;
    v_nodes float8 := (SELECT reltuples FROM pg_class WHERE oid = 'node'::regclass); -- as last analyzed
BEGIN
    IF v_nodes < 0 THEN
        v_nodes := (SELECT count(*) FROM node); -- it never was
    END IF;
    RETURN random() * v_nodes * v_nodes < c_wakes OR p_before < p_reached AND NOT EXISTS (
        SELECT FROM node WHERE revision < p_reached AND last_contact > clock_timestamp() - interval '15 s');
END
$$;

-- Takes what a node has applied. `sites` holds only those that changed; an absent one is forgotten. Texts are cut:
-- 2,000 characters of message and 16,000 of log are what a person reads. A confirmation ends when the node no longer
-- asks for it: the same removal at another time needs another one. Of conditions and of a check, what is of another
-- shape than agreed is left out: who reads every node must not stumble over one.
CREATE OR REPLACE FUNCTION agent_v1.report(report jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_node text;
    v_before bigint;
    v_conditions jsonb;
    v_checked jsonb;
BEGIN
    SELECT name, revision INTO v_node, v_before FROM node WHERE role = session_user;
    IF NOT FOUND THEN
        PERFORM calling_node(); -- raises
    END IF;
    IF jsonb_typeof(report->'conditions') = 'array' THEN
        SELECT coalesce(jsonb_agg(c ORDER BY n), '[]') INTO v_conditions
        FROM jsonb_array_elements(report->'conditions') WITH ORDINALITY AS given(c, n)
        WHERE n <= 100 AND jsonb_typeof(c) = 'object' AND length(c::text) <= 10000;
    END IF;
    IF jsonb_typeof(report->'checked') = 'object' THEN
        SELECT coalesce(jsonb_object_agg(key, value), '{}') INTO v_checked
        FROM jsonb_each(report->'checked')
        WHERE key = ANY ('{id,sites,paths,seconds,cpu_seconds,drift}') AND jsonb_typeof(value) = 'number'
          AND CASE WHEN key LIKE '%seconds' THEN abs(value::numeric) <= 1e9
                   ELSE value::numeric BETWEEN 0 AND 9e18 AND value::numeric = trunc(value::numeric) END;
    END IF;
    UPDATE node SET
        last_contact = clock_timestamp(),
        epoch = coalesce((report->>'epoch')::uuid, epoch),
        revision = coalesce((report->>'revision')::bigint, revision),
        digest = coalesce(left(report->>'digest', 100), digest),
        conditions = coalesce(v_conditions, conditions),
        confirmed = CASE WHEN v_conditions IS NULL OR strpos(v_conditions::text, confirmed) > 0 THEN confirmed END,
        checked = coalesce(v_checked, checked),
        checked_at = CASE WHEN v_checked IS NULL THEN checked_at ELSE clock_timestamp() END,
        checked_id = greatest(checked_id, least((v_checked->>'id')::bigint, check_requested)),
        notifications = coalesce((report->>'notifications')::boolean, notifications),
        version = coalesce(left(report->>'version', 100), version)
    WHERE name = v_node;

    IF jsonb_typeof(report->'drift') = 'array' THEN
        PERFORM note_drift(v_node, report->'drift');
    END IF;

    IF jsonb_typeof(report->'sites') = 'array' AND jsonb_array_length(report->'sites') > 0 THEN
        INSERT INTO node_site (node_id, slug, revision, generation, state, message, log, reported_at)
        SELECT DISTINCT ON (s.slug) v_node, s.slug, s.revision, coalesce(s.generation, 0), s.state,
               left(coalesce(s.message, ''), 2000), right(coalesce(s.log, ''), 16000), clock_timestamp()
        FROM jsonb_to_recordset(report->'sites')
             AS s(slug text, revision bigint, generation bigint, state text, message text, log text)
        WHERE s.state <> 'absent'
        ORDER BY s.slug, s.revision DESC, s.generation DESC
        ON CONFLICT (node_id, slug) DO UPDATE SET
            revision = excluded.revision, generation = excluded.generation, state = excluded.state,
            message = excluded.message, log = excluded.log, reported_at = excluded.reported_at;

        DELETE FROM node_site n
        USING jsonb_to_recordset(report->'sites') AS s(slug text, state text)
        WHERE n.node_id = v_node AND n.slug = s.slug AND s.state = 'absent';
    END IF;

    IF report_is_told(v_before, (report->>'revision')::bigint) THEN
        PERFORM pg_notify('tenantry_report', v_node);
    END IF;
END
$$;

REVOKE ALL ON FUNCTION agent_v1.heartbeat() FROM PUBLIC;
REVOKE ALL ON FUNCTION agent_v1.report(jsonb) FROM PUBLIC;
