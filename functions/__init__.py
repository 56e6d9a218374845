"""One folder a function, each a thin handler over `services.whatsapp`."""
