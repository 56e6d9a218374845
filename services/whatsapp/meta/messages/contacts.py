"""Contact cards. Source: Meta's page messages/contacts-messages."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from services.whatsapp.meta.messages.parts import Part, Quoting, Words

Birthday = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class Name(Part):
    formatted_name: Words
    first_name: str | None = None
    last_name: str | None = None
    middle_name: str | None = None
    suffix: str | None = None
    prefix: str | None = None

    @model_validator(mode="after")
    def _another_part(self) -> Self:
        if not any((self.first_name, self.last_name, self.middle_name, self.suffix, self.prefix)):
            raise ValueError("needs one more part beside formatted_name: first_name, last_name, …")
        return self


class Phone(Part):
    phone: str | None = None
    type: str | None = None
    wa_id: str | None = None


class Email(Part):
    email: str | None = None
    type: str | None = None


class Url(Part):
    url: str | None = None
    type: str | None = None


class Address(Part):
    street: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    country: str | None = None
    country_code: str | None = None
    type: str | None = None


class Organization(Part):
    company: str | None = None
    department: str | None = None
    title: str | None = None


class ContactCard(Part):
    name: Name
    phones: list[Phone] | None = None
    emails: list[Email] | None = None
    addresses: list[Address] | None = None
    urls: list[Url] | None = None
    org: Organization | None = None
    birthday: Birthday | None = None


class ContactsMessage(Quoting):
    type: Literal["contacts"]
    contacts: Annotated[list[ContactCard], Field(min_length=1, max_length=257)]
