-- What agents may call, version 1: the whole contract between control and the nodes. SECURITY DEFINER with a pinned
-- search_path; a node is known by the role it logged in with (session_user). Nothing is granted here: setup_platform
-- grants EXECUTE to the roles of nodes. A change that old agents would not understand becomes agent_v2.
CREATE SCHEMA agent_v1;

-- The calling agent's node. Not in agent_v1 on purpose: nodes have no USAGE on this schema.
CREATE FUNCTION calling_node() RETURNS text
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

CREATE FUNCTION agent_v1.head() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
    SELECT jsonb_build_object('epoch', epoch, 'revision', revision) FROM platform_state
$$;

-- STABLE, so that the head and the sites are of one snapshot: every change up to `revision` is in the answer.
-- `full` answers list every site to serve; the others list what changed after `since`, with removed sites as
-- {"slug", "revision", "present": false}. A `since` that this database never reached gets a full answer.
CREATE FUNCTION agent_v1.desired(since bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_state platform_state;
    v_full boolean;
    v_since bigint;
    v_present jsonb;
    v_absent jsonb := '[]';
BEGIN
    PERFORM calling_node();
    SELECT * INTO STRICT v_state FROM platform_state;
    v_full := since IS NULL OR since <= 0 OR since > v_state.revision;
    v_since := CASE WHEN v_full THEN 0 ELSE since END;

    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'slug', s.slug, 'number', s.number, 'project_number', s.project_id, 'revision', s.revision, 'present', true,
        'generation', s.generation, 'mode', s.mode, 'runtime', s.runtime,
        'processes', s.processes, 'threads', s.threads,
        'release', jsonb_build_object(
            'name', r.name, 'digest', r.digest, 'wsgi', r.wsgi, 'settings', r.settings, 'manage', r.manage,
            'static', r.static, 'serve_media', p.serve_media),
        'health_path', p.health_path, 'hostnames', h.names, 'database', 'site_' || s.number, 'sealed', s.sealed
    ) ORDER BY s.revision), '[]')
    INTO v_present
    FROM site s
    JOIN release r ON r.id = s.release_id
    JOIN project p ON p.number = s.project_id
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

    RETURN jsonb_build_object('epoch', v_state.epoch, 'revision', v_state.revision, 'full', v_full,
                              'sites', v_absent || v_present);
END
$$;

CREATE FUNCTION agent_v1.heartbeat() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
BEGIN
    UPDATE node SET last_contact = clock_timestamp() WHERE name = calling_node();
    RETURN agent_v1.head();
END
$$;

-- Takes what a node has applied. `sites` holds only those that changed; an absent one is forgotten. Texts are cut:
-- 2,000 characters of message and 16,000 of log are what a person reads.
CREATE FUNCTION agent_v1.report(report jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp
AS $$
DECLARE
    v_node text := calling_node();
BEGIN
    UPDATE node SET
        last_contact = clock_timestamp(),
        epoch = coalesce((report->>'epoch')::uuid, epoch),
        revision = coalesce((report->>'revision')::bigint, revision),
        digest = coalesce(report->>'digest', digest),
        conditions = CASE WHEN jsonb_typeof(report->'conditions') = 'array' THEN report->'conditions'
                          ELSE conditions END
    WHERE name = v_node;

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

    PERFORM pg_notify('tenantry_report', v_node);
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA agent_v1 FROM PUBLIC;
