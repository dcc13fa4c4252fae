"""The addresses of pages, of their fragments, and of the files they load."""

from django.urls import URLPattern, URLResolver, path

from tenantry.control.dashboard import access, assets, live, mode_pages, node_pages, overview, project_pages, site_pages

app_name = "dashboard"
urlpatterns: list[URLPattern | URLResolver] = [
    path("", overview.overview, name="overview"),
    path("changes", overview.changes, name="changes"),
    path("live", live.live, name="live"),
    path("sites/new", site_pages.new_site, name="new_site"),
    path("sites/<str:slug>", site_pages.site, name="site"),
    path("sites/<str:slug>/log", site_pages.site_log, name="site_log"),
    path("sites/<str:slug>/hostnames", site_pages.add_hostname, name="add_hostname"),
    path("sites/<str:slug>/hostnames/<str:name>/remove", site_pages.remove_hostname, name="remove_hostname"),
    path("sites/<str:slug>/restart", site_pages.restart, name="restart"),
    path("sites/<str:slug>/mode", mode_pages.set_mode, name="set_mode"),
    path("sites/<str:slug>/delete", site_pages.delete_site, name="delete_site"),
    path("nodes", node_pages.nodes, name="nodes"),
    path("nodes/<str:name>", node_pages.node, name="node"),
    path("nodes/<str:name>/drain", node_pages.drain_node, name="drain_node"),
    path("nodes/<str:name>/check", node_pages.check_node, name="check_node"),
    path("nodes/<str:name>/confirm", node_pages.confirm_node, name="confirm_node"),
    path("nodes/<str:name>/remove", node_pages.remove_node, name="remove_node"),
    path("projects", project_pages.projects, name="projects"),
    path("projects/<str:name>", project_pages.project, name="project"),
    path("projects/<str:name>/releases", project_pages.releases, name="releases"),
    path("releases/<str:name>", project_pages.release, name="release"),
    # For everybody: without these nobody could log in.
    path("login", access.log_in, name="login"),
    path("logout", access.log_out, name="logout"),
    path("assets/<slug:version>/<str:name>", assets.asset, name="asset"),
]
