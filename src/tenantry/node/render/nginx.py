"""PURE: nginx.conf, written once. Sites and hostnames are data on disk; the file does not know them.

nginx serves the file's own revision, a hash of it, so that the file in use can be told from the file on disk.

What it holds varies only with the home's checked path, an IP address, ports and a group's name. A request goes:
whitelist the host → `run/hosts/<fqdn>` → its real path `run/sites/<slug>` → files of the site, else its socket, in the
protocol that is spoken there (`upstream`).
A site in a mode is answered by standby in its place, which may send a request on to the site; its static files are
served in every mode, since its own page may use them. What lets its bearer into closed sites, the link's token and the
cookie made of it, no application ever gets, nor does the log.
"""

import hashlib
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tenantry.node.layout import Layout
from tenantry.node.render.mime import MIME_TYPES
from tenantry.node.render.pages import render_pages
from tenantry.spec.bypass import COOKIE, PATH
from tenantry.spec.limits import BOUNDS, DEFAULT_LIMITS

# Headers by which a proxy tells an application who asked. Nobody in front of this nginx is trusted: what the visitor
# sent under these names is replaced or emptied. An upper-case name is how the application sees it.
_EMPTIED = (
    "HTTP_FORWARDED",
    "HTTP_PROXY",  # becomes the environment's proxy setting in CGI-like programs (httpoxy)
    "HTTP_X_FORWARDED",
    "HTTP_X_FORWARDED_PATH",
    "HTTP_X_FORWARDED_PREFIX",
    "HTTP_X_FORWARDED_SCHEME",
    "HTTP_X_FORWARDED_SERVER",
    "HTTP_X_FORWARDED_SSL",
    "HTTP_X_ORIGINAL_URL",
    "HTTP_X_REWRITE_URL",
    "HTTP_X_SCRIPT_NAME",
    "HTTP_X_CLIENT_IP",
    "HTTP_X_CLUSTER_CLIENT_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP",
)

_PARAMETERS = {
    "QUERY_STRING": "$query_string",
    "REQUEST_METHOD": "$request_method",
    "CONTENT_TYPE": "$content_type",
    "CONTENT_LENGTH": "$content_length",
    "REQUEST_URI": "$request_uri",
    "PATH_INFO": "$document_uri",
    "SERVER_PROTOCOL": "$server_protocol",
    "REQUEST_SCHEME": "$scheme",
    "HTTPS": "$https if_not_empty",
    "REMOTE_ADDR": "$remote_addr",
    "REMOTE_PORT": "$remote_port",
    "SERVER_PORT": "$server_port",
    "SERVER_NAME": "$h",
    "HTTP_HOST": "$h$typed_port",
    "HTTP_COOKIE": "$cookies if_not_empty",
    "HTTP_X_FORWARDED_FOR": "$remote_addr",
    "HTTP_X_FORWARDED_HOST": "$h$typed_port",
    "HTTP_X_FORWARDED_PORT": "$seen_port",
    "HTTP_X_FORWARDED_PROTO": "$scheme",
    "HTTP_X_REAL_IP": "$remote_addr",
    "TENANTRY_ROUTE": "$site",  # by which standby knows whom to wake
    # Whom standby lets through: the application knows its mode too.
    "TENANTRY_LET_THROUGH": "$let_through if_not_empty",
}

# What standby needs to know of a request, beside the visitor's headers. In its place it is all that nginx says.
_STANDBY_PARAMETERS = {
    "TENANTRY_DUTY": "mode",
    "TENANTRY_SITE": "$site",
    "REQUEST_METHOD": "$request_method",
    "REQUEST_URI": "$request_uri",
    "DOCUMENT_URI": "$document_uri",
    "HTTP_COOKIE": "$http_cookie if_not_empty",  # one of all that were sent
    "QUERY_STRING": "$query_string",
    "REQUEST_SCHEME": "$scheme",
    "REMOTE_ADDR": "$remote_addr",
}


# The same for an application over HTTP, where there are only headers: no visitor's gets there under these names.
_OWN_HEADERS = {
    "X-Tenantry-Let-Through": "$let_through",
    "X-Tenantry-Probe": '""',
    "X-Tenantry-Route": "$site",
}

_STATIC_FILES = """\
      add_header Cache-Control $static_cache;
      add_header X-Content-Type-Options nosniff always;
      gzip on;
      gzip_types text/css application/javascript application/json image/svg+xml;"""

_MIXED = "(?=[^./-]*[0-9])(?=[^./-]*[A-Za-z])|(?=[^./-]*[a-z][^./-]*[A-Z])"
GRACE_SECONDS = 5  # the engine ends what takes too long; nginx gives up only where the engine did not
READ_SECONDS = DEFAULT_LIMITS.request_seconds + GRACE_SECONDS
LONGEST_SECONDS = BOUNDS["request_seconds"][1] + GRACE_SECONDS
UNTOUCHED_HEADER = "X-Tenantry-Untouched"  # of standby: the request was held, and is to be asked again
# What a reader has not taken yet waits in a file, for a process of the site would be held until the last byte is taken.
# Twice and a half what a visitor may upload. A file belongs to one answer and goes with it; in all they are bounded by
# the room on the disk (`run/unspooled`).
SPOOLED_MB = 256
READY_PATH = "/.tenantry/ready"
_REVISION = re.compile(r'location = /revision .* return 200 "([0-9a-f]{16})\\n";')
_NO_REVISION = "0" * 16


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """What varies in nginx.conf. `group` is None where nginx runs as an ordinary user."""

    bind: str
    http_port: int
    group: str | None
    open_files: int

    @property
    def connections(self) -> int:
        """Of one of nginx's workers. A request has two, and may have a file."""
        return max(self.open_files // 2, 64)

    @property
    def requests_of_a_site(self) -> int:
        """At the same time, at all workers: a quarter of what one can take. A websocket is one while it lasts."""
        return self.connections // 8


def render_nginx(layout: Layout, settings: NginxSettings) -> str:
    """Return nginx.conf; `nginx -t` accepts it once the directories it names exist."""
    text = _render(layout, settings)
    return text.replace(_NO_REVISION, hashlib.sha256(text.encode()).hexdigest()[:16])


def served_revision(text: str) -> str:
    """Return the revision that nginx serves when it runs with `text`."""
    match = _REVISION.search(text)
    return match[1] if match else ""


def _render(layout: Layout, settings: NginxSettings) -> str:
    run = layout.run
    user = f"user www-data {settings.group};\n" if settings.group else ""
    return f"""\
{user}daemon off;
worker_processes auto;
pcre_jit on;
worker_rlimit_nofile {settings.open_files:d};
worker_shutdown_timeout 30s;
pid {run}/nginx.pid;
# A warning only says that an upload or an answer waits in a file.
error_log {layout.home}/logs/nginx.log error;
events {{ worker_connections {settings.connections:d}; }}
http {{
{_http(layout)}
  limit_conn_zone $site zone=sites:16m;
  limit_conn_status 429;
  server {{
    listen {_listen(settings)} default_server;
    server_name _;
{_server(layout, f"limit_conn sites {settings.requests_of_a_site:d};")}
  }}
  # Not a name a visitor's browser can ask for by accident, and no site's: labels of sites have no underscore.
  server {{
    listen {_listen(settings)};
    server_name _status;
    access_log off;
    location / {{ return 404; }}
    location = /nginx {{ stub_status; {_own_machine(settings)} }}
    location = /revision {{ default_type text/plain; return 200 "{_NO_REVISION}\\n"; }}
    location = {READY_PATH} {{
      default_type text/plain;
      if (-f {run}/draining) {{ return 503 "draining\\n"; }}
      return 200 "ready\\n";
    }}
  }}
}}
"""


def _listen(settings: NginxSettings) -> str:
    address = ipaddress.ip_address(settings.bind)
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{settings.http_port:d}"


def _own_machine(settings: NginxSettings) -> str:
    """Who may ask how nginx is: this machine, which asks from the very address nginx listens on."""
    address = ipaddress.ip_address(settings.bind)
    own = "" if address.is_unspecified or address.is_loopback else f"allow {address}; "
    return f"allow 127.0.0.1; allow ::1; {own}deny all;"


def _http(layout: Layout) -> str:
    temporary = layout.nginx_temporary
    types = "\n".join(f"    {kind} {endings};" for kind, endings in MIME_TYPES.items())
    parameters = "\n".join(f"  uwsgi_param {name} {value};" for name, value in _PARAMETERS.items())
    emptied = "\n".join(f'  uwsgi_param {name} "";' for name in _EMPTIED)
    headers = "\n".join(f"  proxy_set_header {name} {value};" for name, value in _headers().items())
    return f"""\
  server_tokens off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 65s;
  # Who says nothing holds a connection: of which site that is, is only known when the head is whole.
  client_header_timeout 10s;
  keepalive_requests 100000;
  client_max_body_size 100m;
  client_body_buffer_size 128k;
  client_body_temp_path {temporary}/body;
  proxy_temp_path {temporary}/proxy;
  uwsgi_temp_path {temporary}/uwsgi;
  fastcgi_temp_path {temporary}/fastcgi;
  scgi_temp_path {temporary}/scgi;
  uwsgi_max_temp_file_size {SPOOLED_MB:d}m;
  uwsgi_connect_timeout 5s;
  uwsgi_read_timeout {READ_SECONDS:d}s;
  proxy_http_version 1.1;
  proxy_max_temp_file_size {SPOOLED_MB:d}m;
  proxy_connect_timeout 5s;
  proxy_read_timeout {READ_SECONDS:d}s;
  # Obeyed, it makes nginx read files for the application: of a site whose hostname begins with this site's, too.
  uwsgi_ignore_headers X-Accel-Redirect;
  proxy_ignore_headers X-Accel-Redirect;
  default_type application/octet-stream;
  types {{
{types}
  }}
  # $host is lowercased, without port, and may hold almost any byte: what goes on into paths is whitelisted here.
  map $host $h {{ default ""; "~^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$" $host; }}
  map $h $wild {{ default ""; "~^[^.]+\\.(?<parent>.+\\..+)$" "_.$parent"; }}
  map $http_host $typed_port {{ default ""; "~:(?<digits>[0-9]+)$" ":$digits"; }}
  map $typed_port $seen_port {{ default $server_port; "~^:(?<seen>[0-9]+)$" $seen; }}
  # A map is asked for once. What `set` or `if` name is looked up twice, and a path that need not be is not looked up.
  map $dir $real {{ default $realpath_root; }}
  map $dir $wild_place {{ default ""; "" {layout.hosts}/$wild; }}
  map $uri $drain_place {{ default ""; {READY_PATH} {layout.draining}; }}
  map $unsafe $refusing {{ default ""; w $rp/mode.readonly; }}
  map $rp $site {{ default ""; "~/sites/(?<slug>[a-z0-9-]+)$" $slug; }}
  map $request_method $unsafe {{ default w; GET ""; HEAD ""; OPTIONS ""; }}
  map $content_type $sends_file {{ default ""; "~*^multipart/form-data" 1; }}
  # Nothing else may be made of a connection than a websocket: what came after would pass by nginx unseen.
  map $http_upgrade $websocket {{ default ""; "~*^websocket$" 1; }}
  map $websocket $hop_upgrade {{ default ""; 1 websocket; }}
  map $websocket $hop_connection {{ default close; 1 upgrade; }}
  # A name with a hash in it (ManifestStaticFilesStorage) never changes its content.
  map $uri $static_cache {{
    default "public, max-age=3600";
    "~\\.[0-9a-f]{{12}}\\.[A-Za-z0-9]+$" "public, max-age=31536000, immutable";
  }}
  # Of the release before only such names: what was taken out of a release on purpose is gone. Bundlers' are shorter,
  # and no words: they have letters and digits, or a capital after a small letter.
  map $uri $former {{
    default /.none;
    "~^/static(?<below>/(?:[^/]+/)*[^/]*?[.-](?:{_MIXED})[0-9A-Za-z_]{{8,64}}(?:\\.[A-Za-z0-9]{{1,10}}){{1,3}})$"
      /static.former$below;
  }}
{_without_bypass()}
{parameters}
{emptied}
{headers}
  log_format tenantry escape=json '{{"time":"$time_iso8601","site":"$site","host":"$h","remote":"$remote_addr",'
    '"method":"$request_method","uri":"$shown_uri","status":$status,"bytes":$bytes_sent,'
    '"seconds":$request_time,"upstream_seconds":"$upstream_response_time","agent":"$http_user_agent"}}';
  access_log {layout.home}/logs/access.log tenantry buffer=64k flush=1s;"""


def _without_bypass() -> str:
    """What applications get of a request's cookies, and the log of its address. Two cookies of the name are taken out,
    a parent domain's beside the site's own; who sends more sends no cookie at all.
    """
    named = f"[ \\t]*{COOKIE}[ \\t]*="  # as standby reads them, and with blanks as some libraries do

    def taken_out(source: str, name: str) -> str:
        return f"""\
  map ${source} ${name} {{
    default ${source};
    "~^{named}[^;]*(?:;[ \\t]*)?(?<after>.*)$" $after;
    "~^(?<before>.*?);{named}[^;]*(?<after>.*)$" $before$after;
  }}"""

    return f"""\
{taken_out("http_cookie", "fewer_cookies")}
{taken_out("fewer_cookies", "other_cookies")}
  map $other_cookies $cookies {{ default $other_cookies; "~(?:^|;){named}" ""; }}
  map $uri $shown_uri {{ default $request_uri; {PATH} $uri; {PATH}/ $uri; }}"""


def _server(layout: Layout, bounded: str) -> str:
    """`bounded`: so that one site, slow or beset by slow visitors, leaves connections for the others."""
    return f"""\
    root {layout.hosts}/$dir;
    set $rp "";
    set $dir "";
    if (-d {layout.hosts}/$h) {{ set $dir $h; }}
    if (-d $wild_place) {{ set $dir $wild; }}
    # Whoever shares out visitors asks under no site's name; under a site's name the path is the application's.
    set $ready "$dir$uri";
    if (-f $drain_place) {{ set $ready "draining$ready"; }}
    if ($ready = {READY_PATH}) {{ return 200 "ready\\n"; }}
    if ($ready = draining{READY_PATH}) {{ return 503 "draining\\n"; }}
    if ($h = "") {{ return 444; }}
    if ($dir = "") {{ return 404; }}
    set $rp $real;
    # "rw": standby is asked first.
    set $gate "";
    set $let_through "";
    if (-f $refusing) {{ set $gate rw; }}
    if (-f $rp/mode.maintenance) {{ set $gate rw; }}
    set $red $https;
    if (-f $rp/mode.https) {{ set $red "r$https"; }}
    if ($red = r) {{ return 308 https://$h$request_uri; }}
    # A named place keeps a request's method and body. What is answered there may need a page, too.
    recursive_error_pages on;
    error_page 404 @unknown;
    error_page 429 502 504 = @away;
    error_page 503 = @standby;
{render_pages()}
    # `root` here is the site's directory; below its three links nothing may lead elsewhere.
    location ^~ /static/ {{
      root $rp;
      disable_symlinks on from=$rp/static;
      try_files $uri @former;
      error_page 403 405 = @application;
{_STATIC_FILES}
    }}
    # Pages that are open since before a deploy.
    location @former {{
      root $rp;
      disable_symlinks on from=$rp/static.former;
      try_files $former @application;
{_STATIC_FILES}
    }}
    location ^~ /media/ {{
      if ($gate = rw) {{ return 503; }}
      root $rp;
      disable_symlinks on from=$rp/media;
      try_files $uri @application;
      error_page 403 405 = @application;
      error_page 503 = @standby;
      # What visitors uploaded must not run as the site: no scripts, no forms, no frames, no other origin's content.
      add_header X-Content-Type-Options nosniff always;
      add_header Content-Security-Policy "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; \
style-src 'unsafe-inline'" always;
    }}
    location @application {{ {bounded} if ($gate = rw) {{ return 503; }} try_files /.none @engine; }}
    location / {{
      {bounded}
      if ($gate = rw) {{ return 503; }}
      try_files /.none @engine;
    }}
    # How the site is spoken to: of no interest where a file is the answer.
    location @engine {{
      error_page 418 = @$engine$patience$spool;
      error_page 507 = @full;
      set $upload "";
      if (-f {layout.full}/$site) {{ set $upload $sends_file; }}
      if ($upload) {{ return 507; }}
      set $engine uwsgi;
      if (-f $rp/engine.http) {{ set $engine http; }}
      # A websocket may have nothing to say for long.
      set $patience "";
      if (-f {layout.long}/$site) {{ set $patience -long; }}
      if ($websocket) {{ set $patience -long; }}
      # Where the disk is short of room, an answer that could not be written there would be cut.
      set $spool "";
      if (-f {layout.unspooled}) {{ set $spool -unspooled; }}
      return 418;
    }}
{_engines()}
{_standby(layout, bounded)}"""


def _engines() -> str:
    """The places that lead to a site's socket, by what is spoken there.

    The site may get another engine while nginx takes a request's body. Then nobody listens where its choice leads, and
    as long as nothing was sent it chooses again. Or standby held the request meanwhile, and says that nobody got it.
    """

    def place(engine: str, patience: str, passed: str) -> str:
        return f"""\
    location @{engine}{patience} {{
      {passed}
      error_page 502 = @no-{engine};
      error_page 504 = @away;
    }}"""

    untouched = f"$upstream_http_{UNTOUCHED_HEADER.lower().replace('-', '_')}"

    def places(engine: str, module: str, passed: str) -> Iterator[str]:
        for patience, waiting in (("", ""), ("-long", f" {module}_read_timeout {LONGEST_SECONDS:d}s;")):
            yield place(engine, patience, passed + waiting)
            yield place(engine, f"{patience}-unspooled", f"{passed}{waiting} {module}_max_temp_file_size 0;")

    def moved(engine: str, other: str, test: str) -> str:
        return f"""\
    location @no-{engine} {{
      error_page 418 = @{other};
      error_page 502 = @away;
      set $moved "";
      if ({test} $rp/engine.http) {{ set $moved $upstream_bytes_sent:{untouched}; }}
      if ($moved ~ "^0:|:1$") {{ return 418; }}
      return 502;
    }}"""

    return "\n".join(
        [
            *places("uwsgi", "uwsgi", "uwsgi_pass unix:$rp/app.sock;"),
            *places("http", "proxy", "proxy_pass http://unix:$rp/app.http;"),
            moved("uwsgi", "http", "-f"),
            moved("http", "uwsgi", "!-f"),
        ]
    )


def _headers() -> dict[str, str]:
    """The headers by which an application over HTTP is told what one over uWSGI's protocol is told in parameters."""
    told = {name: value.split()[0] for name, value in _PARAMETERS.items() if name.startswith("HTTP_")}
    told |= dict.fromkeys(_EMPTIED, '""')
    headers = {name.removeprefix("HTTP_").replace("_", "-").title(): value for name, value in told.items()}
    return headers | _OWN_HEADERS | {"Upgrade": "$hop_upgrade", "Connection": "$hop_connection"}


def _standby(layout: Layout, bounded: str) -> str:
    """The place where standby answers, or says that the site may. Named places keep a request's method and body."""
    parameters = "\n".join(f"      uwsgi_param {name} {value};" for name, value in _STANDBY_PARAMETERS.items())
    asked = f"""\
      uwsgi_pass unix:{layout.standby_socket};
{parameters}
      uwsgi_pass_request_body off;
      uwsgi_read_timeout 5s;
      error_page 502 504 = @closed;"""
    return f"""\
    location @standby {{
{asked}
      # Standby is the platform's own: of it alone X-Accel-Redirect is obeyed.
      uwsgi_ignore_headers X-Accel-Charset;
    }}
    # The token is standby's to judge in every mode, and nobody else's to see: an error's line would have it, too.
    location = {PATH} {{
{asked}
      error_log {layout.home}/logs/nginx.log emerg;
    }}
    location = {PATH}/ {{
{asked}
      error_log {layout.home}/logs/nginx.log emerg;
    }}
    location @let_through {{ {bounded} set $let_through 1; try_files /.none @engine; }}"""
