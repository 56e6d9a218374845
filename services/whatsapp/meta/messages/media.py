"""Files: pictures, videos, sound, documents, stickers. Source: Meta's pages messages/{image,video,audio,…}-messages.

A file's own limits (megabytes, codecs) are Meta's to judge: what it cannot take fails later, with 131053.
"""

from typing import Annotated, Literal

from pydantic import StringConstraints

from services.whatsapp.meta.messages.parts import Document, Media, Quoting

Caption = Annotated[str, StringConstraints(max_length=1_024)]


class Captioned(Media):
    caption: Caption | None = None


class CaptionedDocument(Document):
    """Without a `filename` the end of the link is shown."""

    caption: Caption | None = None


class Audio(Media):
    """As a voice message it must be OGG with OPUS, in mono."""

    voice: bool | None = None


class ImageMessage(Quoting):
    type: Literal["image"]
    image: Captioned


class VideoMessage(Quoting):
    type: Literal["video"]
    video: Captioned


class AudioMessage(Quoting):
    type: Literal["audio"]
    audio: Audio


class DocumentMessage(Quoting):
    type: Literal["document"]
    document: CaptionedDocument


class StickerMessage(Quoting):
    type: Literal["sticker"]
    sticker: Media
