"""Django's settings for control. Everything that differs between installations comes from the configuration file.

`TENANTRY` holds the whole configuration for the code that needs more than Django does.
"""

from tenantry.control.config import ControlConfig, config_from_environment

TENANTRY: ControlConfig = config_from_environment()

# Without a configuration (type checks, makemigrations) nothing may be signed with a guessable key by accident: such
# a process has no database either.
SECRET_KEY = TENANTRY.secret_key or "unconfigured"
DEBUG = False
ALLOWED_HOSTS = list(TENANTRY.allowed_hosts)

INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "procrastinate.contrib.django",
    "tenantry.control.changelog",
    "tenantry.control.releases",
    "tenantry.control.sites",
    "tenantry.control.fleet",
    "tenantry.control.access",
    "tenantry.control.jobs",
    "tenantry.control.dashboard",
]

MIDDLEWARE = [
    "tenantry.control.middleware.security_headers",
    "tenantry.control.api.problems.problem_responses",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]

ROOT_URLCONF = "tenantry.control.urls"
ASGI_APPLICATION = "tenantry.control.asgi.application"
APPEND_SLASH = False

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "tenantry.control.postgres",
        "HOST": TENANTRY.database.host,
        "PORT": str(TENANTRY.database.port),
        "NAME": TENANTRY.database.name or "unconfigured",
        "USER": TENANTRY.database.user,
        "PASSWORD": TENANTRY.database.password,
        "ATOMIC_REQUESTS": False,
        "CONN_MAX_AGE": 0,  # the pool keeps connections; Django only borrows one per request
        "OPTIONS": {
            # Under ASGI every request has a thread of its own: without a pool each would log in anew (SCRAM, ~6 ms).
            "pool": {"min_size": 1, "max_size": 12, "timeout": 5, "max_idle": 60},
            "application_name": "tenantry-control",
            "connect_timeout": 5,
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

STATIC_URL = "/static/"
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login"
SESSION_COOKIE_NAME = "tenantry_session"
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_NAME = "tenantry_csrf"
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = TENANTRY.control_url.startswith("https://")

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576  # bytes: the largest request is a site's environment, far below this

PROCRASTINATE_AUTODISCOVER_MODULE_NAME = ""
PROCRASTINATE_IMPORT_PATHS = ["tenantry.control.jobs.tasks"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        # Every 4xx answer of the API is a person's mistake, not an event of the platform.
        "django.request": {"level": "ERROR"},
    },
}
