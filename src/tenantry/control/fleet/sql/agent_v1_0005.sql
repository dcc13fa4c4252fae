-- Replaces `desired` of agent_v1_0004.sql: sites have limits, options of their mode and paths to warm, releases an
-- engine. The rest of the contract is as it was.

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
        'processes', s.processes, 'threads', s.threads, 'limits', s.limits,
        'mode_options', s.mode_options || jsonb_build_object('until', s.mode_until), 'warm_paths', p.warm_paths,
        'release', jsonb_build_object(
            'name', r.name, 'digest', r.digest, 'wsgi', r.wsgi, 'settings', r.settings, 'manage', r.manage,
            'static', r.static, 'engine', r.engine, 'asgi', r.asgi, 'serve_media', p.serve_media, 'python', r.python,
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

REVOKE ALL ON FUNCTION agent_v1.desired(bigint) FROM PUBLIC;
