-- The change log. `changelog_append` is the only way a row gets in; call it last in a transaction, with the rows that
-- it describes already locked: from here to the commit every other writer waits.

-- Nobody but the owner's roles uses the tables' schema: agents have agent_v1, tenants have their own databases.
REVOKE ALL ON SCHEMA public FROM PUBLIC;

INSERT INTO platform_state (singleton, epoch, revision) VALUES (true, gen_random_uuid(), 0);

-- Returns the change's revision. Revisions have no gaps and come in commit order, because the counter's row stays
-- locked until the transaction ends, and a rollback gives the number back. Fails with lock_not_available after 5 s.
CREATE FUNCTION changelog_append(p_type text, p_site text, p_project text, p_actor text, p_metadata jsonb)
RETURNS bigint
LANGUAGE plpgsql
SET lock_timeout = '5s'
SET search_path = public, pg_temp
AS $$
DECLARE
    v_state platform_state;
BEGIN
    UPDATE platform_state SET revision = revision + 1 WHERE singleton RETURNING * INTO STRICT v_state;
    INSERT INTO change (revision, epoch, type, site_slug, project, actor, metadata, created_at)
    VALUES (v_state.revision, v_state.epoch, p_type, p_site, p_project, p_actor, p_metadata, clock_timestamp());
    RETURN v_state.revision;
END
$$;

-- A hint that something moved, never an instruction: listeners read the tables. 7,900 bytes because PostgreSQL refuses
-- a payload of 8,000.
CREATE FUNCTION change_notify() RETURNS trigger
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
DECLARE
    v_hint jsonb := jsonb_build_object(
        'revision', NEW.revision, 'epoch', NEW.epoch, 'type', NEW.type, 'timestamp', NEW.created_at,
        'site', NEW.site_slug, 'project', NEW.project, 'actor', left(NEW.actor, 200));
    v_payload text := (v_hint || jsonb_build_object('metadata', NEW.metadata))::text;
BEGIN
    IF octet_length(v_payload) > 7900 THEN
        v_payload := (v_hint || '{"metadata_omitted": true}')::text;
    END IF;
    PERFORM pg_notify('tenantry', v_payload);
    RETURN NULL;
END
$$;

CREATE TRIGGER change_notify AFTER INSERT ON change FOR EACH ROW EXECUTE FUNCTION change_notify();

-- The log is append-only also for the application's own mistakes.
CREATE FUNCTION change_refuse() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    RAISE EXCEPTION 'the change log is append-only' USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER change_append_only BEFORE UPDATE ON change FOR EACH ROW EXECUTE FUNCTION change_refuse();
