-- Replaces `report` of agent_v1_0006.sql: agents say what they understand, and speak of known sites only.

-- Takes what a node has applied. `sites` holds only those that changed; an absent one is forgotten. Texts are cut:
-- 2,000 characters of message and 16,000 of log are what a person reads. A confirmation ends when the node no longer
-- asks for it: the same removal at another time needs another one. Of conditions and of a check, what is of another
-- shape than agreed is left out: who reads every node must not stumble over one. Sites are those that are or were: a node cannot fill the table with
-- names of its own. `features` are words for what the agent understands; one that names a version and none has none.
CREATE OR REPLACE FUNCTION agent_v1.report(report jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_node text;
    v_before bigint;
    v_conditions jsonb;
    v_checked jsonb;
    v_features jsonb;
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
    IF jsonb_typeof(report->'features') = 'array' THEN
        SELECT coalesce(jsonb_agg(f), '[]') INTO v_features
        FROM jsonb_array_elements(report->'features') WITH ORDINALITY AS given(f, n)
        WHERE n <= 20 AND jsonb_typeof(f) = 'string' AND length(f::text) <= 50;
    ELSIF report ? 'version' THEN
        v_features := '[]';
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
        version = coalesce(left(report->>'version', 100), version),
        features = coalesce(v_features, features)
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
          AND (EXISTS (SELECT FROM site WHERE slug = s.slug) OR EXISTS (SELECT FROM change WHERE site_slug = s.slug)
               OR EXISTS (SELECT FROM node_site WHERE node_id = v_node AND slug = s.slug))
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

REVOKE ALL ON FUNCTION agent_v1.report(jsonb) FROM PUBLIC;
