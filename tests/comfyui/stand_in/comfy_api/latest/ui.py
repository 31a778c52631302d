from __future__ import annotations


class PreviewImage:
    def __init__(self, image, animated=False, cls=None, **kwargs):
        self.image = image
        self.animated = animated

    def as_dict(self):
        values = [{"filename": "preview.png", "subfolder": "", "type": "temp"}] * len(self.image)
        return {"images": values, "animated": (self.animated,)}


class SavedResult(dict):
    def __init__(self, filename, subfolder, type):
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


class PreviewVideo:
    def __init__(self, values, **kwargs):
        self.values = values

    def as_dict(self):
        return {"images": self.values, "animated": (True,)}
