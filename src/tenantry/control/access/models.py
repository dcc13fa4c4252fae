"""Tables of access. Only hashes of tokens are stored: what was handed out cannot be read back."""

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Token(models.Model):
    """A bearer token: `tnt_` and 32 random bytes, of which the SHA-256 is kept."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=100)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tokens")
    hash = models.CharField(max_length=64, unique=True)
    created_by = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "token"

    def __str__(self) -> str:
        return self.name


class RememberedAnswer(models.Model):
    """The answer to a create that carried an Idempotency-Key: sent again when the same token repeats the key."""

    id = models.BigAutoField(primary_key=True)
    token = models.ForeignKey(Token, on_delete=models.CASCADE, related_name="+")
    key = models.CharField(max_length=200)
    request_digest = models.CharField(max_length=64)  # of method, path and body: a key is for one request
    status = models.IntegerField(default=0)  # 0: the first request is still running
    body = models.TextField(default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "remembered_answer"
        constraints = [models.UniqueConstraint(fields=["token", "key"], name="remembered_answer_once")]
        indexes = [models.Index(fields=["created_at"], name="remembered_answer_age")]

    def __str__(self) -> str:
        return self.key
