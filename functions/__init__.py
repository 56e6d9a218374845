"""The doors: one folder a function, each a thin handler over `services.whatsapp`."""
