-- What agents may call, version 1: the whole contract between control and the nodes, as it is now (agent_v1.sql is
-- how it began). SECURITY DEFINER with a pinned search_path; a node is known by the role it logged in with
-- (session_user). Nothing is granted here: setup_platform grants EXECUTE to the roles of nodes. Keys are added, never
-- renamed: the previous release's agents call the same functions and ignore what they do not know. A change that they
-- would not understand becomes agent_v2.

-- The calling agent's node. Not in agent_v1 on purpose: nodes have no USAGE on this schema.
CREATE OR REPLACE FUNCTION calling_node() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp
AS $$
DECLARE
    v_name text;
BEGIN
    SELECT name INTO v_name FROM node WHERE role = session_user;
    IF v_name IS NULL THEN
        RAISE EXCEPTION 'the role % belongs to no node', session_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN v_name;
END
$$;

-- `now` is this server's clock, ISO 8601 with an offset: a node compares it with its own.
CREATE OR REPLACE FUNCTION agent_v1.head() RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    PERFORM calling_node();
    RETURN (
        SELECT jsonb_build_object('epoch', platform_epoch(), 'revision', revision, 'now', clock_timestamp())
        FROM platform_state
    );
END
$$;

-- STABLE, so that the head and the sites are of one snapshot: every change up to `revision` is in the answer.
-- `full` answers list every site to serve; the others list what changed after `since`, with removed sites as
-- {"slug", "revision", "present": false}. Answered in full is a `since` that this database never reached, one from
-- before `tail` (the log no longer has what was removed then), and one from before the node's key was changed.
-- `sealed` is for this node's key alone; a node without one (of the release before there were any) gets what the
-- platform's key opens. `node` holds what people ask of this node: levels, not events.
CREATE OR REPLACE FUNCTION agent_v1.desired(since bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_state platform_state;
    v_node node;
    v_full boolean;
    v_since bigint;
    v_present jsonb;
    v_absent jsonb := '[]';
BEGIN
    SELECT * INTO STRICT v_node FROM node WHERE name = calling_node();
    SELECT * INTO STRICT v_state FROM platform_state;
    v_full := since IS NULL OR since <= 0 OR since > v_state.revision OR since < v_state.tail
              OR since < v_node.full_from;
    v_since := CASE WHEN v_full THEN 0 ELSE since END;

    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'slug', s.slug, 'number', s.number, 'project_number', s.project_id, 'revision', s.revision, 'present', true,
        'generation', s.generation, 'mode', s.mode, 'runtime', s.runtime,
        'processes', s.processes, 'threads', s.threads,
        'release', jsonb_build_object(
            'name', r.name, 'digest', r.digest, 'wsgi', r.wsgi, 'settings', r.settings, 'manage', r.manage,
            'static', r.static, 'serve_media', p.serve_media, 'python', r.python,
            'artifact', r.artifact, 'artifact_size', r.artifact_size),
        'health_path', p.health_path, 'hostnames', h.names, 'database', 'site_' || s.number,
        'sealed', coalesce(k.sealed, CASE WHEN v_node.sealed_key = '' THEN s.sealed ELSE '' END)
    ) ORDER BY s.revision), '[]')
    INTO v_present
    FROM site s
    JOIN release r ON r.id = s.release_id
    JOIN project p ON p.number = s.project_id
    LEFT JOIN node_secret k ON k.node_id = v_node.name AND k.site_number = s.number
    CROSS JOIN LATERAL (
        SELECT coalesce(jsonb_agg(name ORDER BY name), '[]') AS names FROM hostname WHERE site_id = s.number
    ) h
    WHERE s.status = 'ready' AND s.revision > v_since;

    IF NOT v_full THEN
        SELECT coalesce(jsonb_agg(jsonb_build_object('slug', slug, 'revision', revision, 'present', false)), '[]')
        INTO v_absent
        FROM (
            SELECT c.site_slug AS slug, max(c.revision) AS revision
            FROM change c
            WHERE c.type = 'site.deleted' AND c.revision > v_since
              AND NOT EXISTS (SELECT FROM site s WHERE s.slug = c.site_slug AND s.status = 'ready')
            GROUP BY c.site_slug
        ) removed;
    END IF;

    RETURN jsonb_build_object(
        'epoch', platform_epoch(), 'revision', v_state.revision, 'tail', v_state.tail, 'full', v_full,
        'sites', v_absent || v_present,
        'node', jsonb_build_object(
            'name', v_node.name, 'draining', v_node.draining, 'confirmed', v_node.confirmed,
            'check', v_node.check_requested, 'check_repair', v_node.check_repair));
END
$$;

CREATE OR REPLACE FUNCTION agent_v1.heartbeat() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    UPDATE node SET last_contact = clock_timestamp() WHERE name = calling_node();
    RETURN agent_v1.head();
END
$$;

-- Notes what a node found to differ from the desired state. Ages in seconds, not times, because clocks differ:
-- `found_seconds` and `repaired_seconds` until now, `since_seconds` from the last good check to the finding. A finding
-- is known by (kind, path) while it is open, and by the time it was found, so that a report that arrives twice counts
-- once. Texts are cut, and ages are: no node can date its findings where nobody can read them.
CREATE OR REPLACE FUNCTION note_drift(p_node text, p_drifts jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    c_oldest CONSTANT float8 := 1e9; -- seconds: 30 years. Also what NaN, which is greater than any number, becomes
    v_drift record;
    v_id bigint;
BEGIN
    FOR v_drift IN
        SELECT d.site, left(d.kind, 20) AS kind, left(d.path, 500) AS path, left(coalesce(d.detail, ''), 2000) AS detail,
               v_now - make_interval(secs => a.found + a.since) AS good_at,
               v_now - make_interval(secs => a.found) AS found_at,
               v_now - make_interval(secs => a.repaired) AS repaired_at, a.took AS took_seconds
        FROM jsonb_to_recordset(p_drifts)
             AS d(site text, kind text, path text, detail text, since_seconds float8, found_seconds float8,
                  repaired_seconds float8, took_seconds float8)
        CROSS JOIN LATERAL (
            SELECT least(greatest(coalesce(d.found_seconds, 0), 0), c_oldest) AS found,
                   CASE WHEN d.since_seconds IS NOT NULL
                        THEN least(greatest(d.since_seconds, 0), c_oldest) END AS since,
                   CASE WHEN d.repaired_seconds IS NOT NULL
                        THEN least(greatest(d.repaired_seconds, 0), c_oldest) END AS repaired,
                   CASE WHEN d.took_seconds IS NOT NULL
                        THEN least(greatest(d.took_seconds, 0), c_oldest) END AS took
        ) a
        WHERE d.kind IS NOT NULL AND d.path IS NOT NULL
        LIMIT 10000
    LOOP
        SELECT id INTO v_id FROM node_drift
        WHERE node_id = p_node AND path = v_drift.path AND kind = v_drift.kind
          AND (repaired_at IS NULL OR abs(extract(epoch FROM found_at - v_drift.found_at)) < 2)
        ORDER BY repaired_at IS NULL DESC, id DESC LIMIT 1;
        IF FOUND THEN
            UPDATE node_drift SET detail = v_drift.detail, repaired_at = coalesce(v_drift.repaired_at, repaired_at),
                                  took_seconds = coalesce(v_drift.took_seconds, took_seconds)
            WHERE id = v_id;
        ELSE
            INSERT INTO node_drift (node_id, site_slug, kind, path, detail, good_at, found_at, repaired_at, took_seconds)
            VALUES (p_node, left(v_drift.site, 40), v_drift.kind, v_drift.path, v_drift.detail, v_drift.good_at,
                    v_drift.found_at, v_drift.repaired_at, v_drift.took_seconds);
        END IF;
    END LOOP;
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
    v_node text := calling_node();
    v_before bigint := (SELECT revision FROM node WHERE name = v_node);
    v_conditions jsonb;
    v_checked jsonb;
BEGIN
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

    -- A notification wakes every process that listens in this database, the agents' included: were each of N nodes to
    -- notify of one change, PostgreSQL would wake N² of them. So in a large fleet a part of the reports does, and the
    -- one by which the last living node has caught up; who waits looks again by itself.
    IF random() * (SELECT count(*) FROM node) < 10 OR v_before < (report->>'revision')::bigint AND NOT EXISTS (
        SELECT FROM node
        WHERE revision < (report->>'revision')::bigint AND last_contact > clock_timestamp() - interval '15 s')
    THEN
        PERFORM pg_notify('tenantry_report', v_node);
    END IF;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA agent_v1 FROM PUBLIC;
