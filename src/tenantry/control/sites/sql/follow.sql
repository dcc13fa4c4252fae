-- A site's revision is that of its latest change, set while the counter's row is locked. The service that appends has
-- locked the site's row before, so no order of locks is turned round. An audited command changes nothing of the site.
CREATE FUNCTION site_follow_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = public, pg_temp
AS $$
BEGIN
    UPDATE site SET revision = NEW.revision, updated_at = NEW.created_at WHERE slug = NEW.site_slug;
    RETURN NULL;
END
$$;

CREATE TRIGGER site_follow_change AFTER INSERT ON change FOR EACH ROW
WHEN (NEW.site_slug IS NOT NULL AND NEW.type <> 'site.command')
EXECUTE FUNCTION site_follow_change();
