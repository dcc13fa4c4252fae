from django.urls import path

from board import views

urlpatterns = [
    path("", views.notes, name="notes"),
    path("numbers/", views.numbers, name="numbers"),
    path("files/", views.files, name="files"),
    path("whoami", views.whoami, name="whoami"),
]
