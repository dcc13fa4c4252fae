-- The epoch, the log that counts in it, and the log's tail. Replaces `changelog_append` of append.sql.

-- In which life of the data the revisions count. Besides the random part that a person may renew (platform_state.epoch)
-- it hashes the server's identity, its timeline, this database's oid and the file of the counter's table: a backup that
-- was restored, into a new database or over the old tables, or recovered to a point in time, and a replica that was
-- promoted, are another epoch at once, without anybody writing. (So is the table after VACUUM FULL, which does no harm:
-- nodes read everything once.) Only a cold copy of the whole data directory is not told apart; `new-epoch` is for that.
-- The timeline is read from the name of the WAL file that is written now: the control file names the old one until the
-- checkpoint after a promotion. Standbys write none and take what the control file has.
-- Any role may call the functions used here (PostgreSQL 15 to 17), so the owner may, on behalf of a node.
CREATE FUNCTION platform_epoch() RETURNS uuid
LANGUAGE plpgsql STABLE
SET search_path = public, pg_temp
AS $$
DECLARE
    v_timeline text;
BEGIN
    IF pg_is_in_recovery() THEN
        SELECT lpad(upper(to_hex(timeline_id)), 8, '0') INTO v_timeline FROM pg_control_checkpoint();
    ELSE
        v_timeline := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
    END IF;
    RETURN (
        SELECT md5(concat_ws(' ', s.epoch, c.system_identifier, v_timeline, d.oid,
                             pg_relation_filenode('platform_state')))::uuid
        FROM platform_state s, pg_control_system() c, pg_database d
        WHERE d.datname = current_database()
    );
END
$$;

-- Returns the change's revision. Revisions have no gaps and come in commit order, because the counter's row stays
-- locked until the transaction ends, and a rollback gives the number back. Fails with lock_not_available after 5 s.
CREATE OR REPLACE FUNCTION changelog_append(p_type text, p_site text, p_project text, p_actor text, p_metadata jsonb)
RETURNS bigint
LANGUAGE plpgsql
SET lock_timeout = '5s'
SET search_path = public, pg_temp
AS $$
DECLARE
    v_revision bigint;
BEGIN
    UPDATE platform_state SET revision = revision + 1 WHERE singleton RETURNING revision INTO STRICT v_revision;
    INSERT INTO change (revision, epoch, type, site_slug, project, actor, metadata, created_at)
    VALUES (v_revision, platform_epoch(), p_type, p_site, p_project, p_actor, p_metadata, clock_timestamp());
    RETURN v_revision;
END
$$;

-- Removes changes from the front of the log: those before `keep_after`, but never one of the last `keep_min`. Returns
-- how many went. `platform_state.tail` is then the highest revision that may be missing: who has read less reads the
-- whole state instead. Two kinds outlive the tail, because names can be used again: the last deletion of each slug
-- (its generation numbers) and the last removal of each project (its release numbers).
-- The counter's row is locked last, so that the removal of many rows holds up no writer.
CREATE FUNCTION changelog_compact(keep_after timestamptz, keep_min bigint) RETURNS bigint
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
DECLARE
    v_head bigint;
    v_tail bigint;
    v_cut bigint;
    v_removed bigint;
BEGIN
    SELECT revision, tail INTO STRICT v_head, v_tail FROM platform_state;
    SELECT min(revision) - 1 INTO v_cut FROM change WHERE revision > v_tail AND created_at >= keep_after;
    v_cut := least(coalesce(v_cut, v_head), v_head - greatest(keep_min, 0));
    IF v_cut <= v_tail THEN
        RETURN 0;
    END IF;
    DELETE FROM change c
    WHERE c.revision <= v_cut
      AND NOT (c.type = 'site.deleted' AND NOT EXISTS (
            SELECT FROM change l WHERE l.site_slug = c.site_slug AND l.type = c.type AND l.revision > c.revision))
      AND NOT (c.type = 'project.removed' AND NOT EXISTS (
            SELECT FROM change l WHERE l.project = c.project AND l.type = c.type AND l.revision > c.revision));
    GET DIAGNOSTICS v_removed = ROW_COUNT;
    UPDATE platform_state SET tail = greatest(tail, v_cut) WHERE singleton;
    RETURN v_removed;
END
$$;
