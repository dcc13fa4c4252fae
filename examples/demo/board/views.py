from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from board import digest
from board import site as own
from board.forms import NoteForm, UploadForm
from board.models import Note, Upload

NOTES_SHOWN = 60
UPLOADS_SHOWN = 60


@require_http_methods(["GET", "HEAD", "POST"])
def notes(request: HttpRequest) -> HttpResponse:
    form = NoteForm(request.POST or None, label_suffix="")
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "Your note is on the board.")
        return redirect("notes")
    shown = Note.objects.all()[:NOTES_SHOWN]
    context = {"form": form, "notes": shown, "own": own.whoami(), "media_root": settings.MEDIA_ROOT}
    return render(request, "board/notes.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def numbers(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        digest.forget()
        return redirect("numbers")
    computed, from_cache = digest.read()
    context = {"digest": computed, "from_cache": from_cache, "kept_seconds": digest.KEPT_SECONDS}
    response = render(request, "board/numbers.html", context)
    response["X-Cache"] = "hit" if from_cache else "miss"
    return response


@require_http_methods(["GET", "HEAD", "POST"])
def files(request: HttpRequest) -> HttpResponse:
    form = UploadForm(request.POST or None, request.FILES or None, label_suffix="")
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(request, "The file is stored.")
        return redirect("files")
    uploads = Upload.objects.all()[:UPLOADS_SHOWN]
    return render(request, "board/files.html", {"form": form, "uploads": uploads})


@require_GET
def whoami(request: HttpRequest) -> JsonResponse:
    return JsonResponse(own.whoami())
