from __future__ import annotations


class PreviewImage:
    def __init__(self, image, animated=False, cls=None, **kwargs):
        self.image = image
        self.animated = animated

    def as_dict(self):
        values = [{"filename": "preview.png", "subfolder": "", "type": "temp"}] * len(self.image)
        return {"images": values, "animated": (self.animated,)}
