from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any


class FolderType(str, Enum):
    input = "input"
    output = "output"
    temp = "temp"


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class _Input:
    io_type = ""

    def __init__(
        self, id, display_name=None, optional=False, tooltip=None, lazy=None, extra_dict=None,
        raw_link=None,
    ):  # fmt: skip
        self.id = id
        self.optional = optional
        self.options = _given(
            display_name=display_name, tooltip=tooltip, lazy=lazy, rawLink=raw_link,
            **(extra_dict or {}),
        )  # fmt: skip

    @property
    def default(self):
        return self.options.get("default")

    def as_dict(self):
        return self.options


class _Output:
    io_type = ""

    def __init__(self, id=None, display_name=None, tooltip=None, is_output_list=False):
        self.id = id
        self.display_name = display_name if display_name else id
        self.tooltip = tooltip
        self.is_output_list = is_output_list


def Custom(io_type: str) -> Any:
    class Socket:
        Input = type("Input", (_Input,), {"io_type": io_type})
        Output = type("Output", (_Output,), {"io_type": io_type})

    Socket.io_type = io_type
    return Socket


Image, Mask, Mesh = Custom("IMAGE"), Custom("MASK"), Custom("MESH")
Load3DCamera = Custom("LOAD3D_CAMERA")
Video = Custom("VIDEO")


def _declared(inputs: list[Any]) -> dict[str, Any]:
    """Inputs as /object_info has them."""
    declared: dict[str, Any] = {"required": {}}
    for one in inputs:
        place = declared.setdefault("optional" if one.optional else "required", {})
        place[one.id] = (one.io_type, one.as_dict())
    return declared


class Boolean:
    class Input(_Input):
        io_type = "BOOLEAN"

        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, lazy=None, default=None,
            label_on=None, label_off=None, socketless=None, force_input=None, extra_dict=None,
            raw_link=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link)
            self.options |= _given(
                default=default, socketless=socketless, forceInput=force_input, label_on=label_on,
                label_off=label_off,
            )  # fmt: skip


class Int:
    class Input(_Input):
        io_type = "INT"

        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, lazy=None, default=None,
            min=None, max=None, step=None, control_after_generate=None, display_mode=None,
            socketless=None, force_input=None, extra_dict=None, raw_link=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link)
            self.options |= _given(
                default=default, socketless=socketless, forceInput=force_input, min=min, max=max,
                step=step, control_after_generate=control_after_generate, display=display_mode,
            )  # fmt: skip


class Float:
    class Input(_Input):
        io_type = "FLOAT"

        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, lazy=None, default=None,
            min=None, max=None, step=None, round=None, display_mode=None, socketless=None,
            force_input=None, extra_dict=None, raw_link=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link)
            self.options |= _given(
                default=default, socketless=socketless, forceInput=force_input, min=min, max=max,
                step=step, round=round, display=display_mode,
            )  # fmt: skip

    class Output(_Output):
        io_type = "FLOAT"


class String:
    class Input(_Input):
        io_type = "STRING"

        def __init__(
            self, id, display_name=None, optional=False, tooltip=None, lazy=None, multiline=False,
            placeholder=None, default=None, dynamic_prompts=None, socketless=None,
            force_input=None, extra_dict=None, raw_link=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link)
            self.options |= _given(
                default=default, socketless=socketless, forceInput=force_input,
                multiline=multiline, placeholder=placeholder, dynamicPrompts=dynamic_prompts,
            )  # fmt: skip

    class Output(_Output):
        io_type = "STRING"


class Combo:
    class Input(_Input):
        io_type = "COMBO"

        def __init__(
            self, id, options=None, display_name=None, optional=False, tooltip=None, lazy=None,
            default=None, control_after_generate=None, upload=None, image_folder=None,
            remote=None, socketless=None, extra_dict=None, raw_link=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict, raw_link)
            self.options |= _given(
                default=default, socketless=socketless, multiselect=False, options=options,
                control_after_generate=control_after_generate, image_folder=image_folder,
                remote=remote,
            )  # fmt: skip


class DynamicCombo:
    class Option:
        def __init__(self, key, inputs):
            self.key = key
            self.inputs = inputs

    class Input(_Input):
        io_type = "COMFY_DYNAMICCOMBO_V3"

        def __init__(
            self, id, options, display_name=None, optional=False, tooltip=None, lazy=None,
            extra_dict=None,
        ):  # fmt: skip
            super().__init__(id, display_name, optional, tooltip, lazy, extra_dict)
            self.choices = options

        def as_dict(self):
            options = [{"key": one.key, "inputs": _declared(one.inputs)} for one in self.choices]
            return {**self.options, "options": options}


@dataclass
class Schema:
    node_id: str
    display_name: str = None
    category: str = "sd"
    inputs: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def validate(self) -> None:
        for things in (self.inputs, self.outputs):
            ids = [one.id for one in things]
            if len(set(ids)) < len(ids):
                raise ValueError(f"ids must be unique, but are {ids}")

    def finalize(self) -> None:
        if self.is_output_node:
            self.hidden += [Hidden.prompt, Hidden.extra_pnginfo]


@dataclass
class NodeInfoV1:
    input: dict = None
    input_order: dict[str, list[str]] = None
    output: list[str] = None
    output_is_list: list[bool] = None
    output_name: list[str] = None
    output_tooltips: list[str] = None
    output_matchtypes: list[str] = None
    name: str = None
    display_name: str = None
    description: str = None
    python_module: Any = None
    category: str = None
    output_node: bool = None
    deprecated: bool = None
    experimental: bool = None
    api_node: bool = None


class NodeOutput:
    def __init__(self, *args, ui=None, expand=None, block_execution=None):
        self.args = args
        self.ui = ui
        self.expand = expand
        self.block_execution = block_execution

    @property
    def result(self):
        return self.args if self.args else None

    def __getitem__(self, index):
        return self.args[index]


class ComfyNode:
    hidden = None  # set on the class of each run

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        schema = cls.GET_SCHEMA()
        declared = _declared(schema.inputs)
        for one in schema.hidden:
            declared.setdefault("hidden", {})[one.name] = (one.value,)
        info = NodeInfoV1(
            input=declared,
            input_order={kind: list(inputs) for kind, inputs in declared.items()},
            output=[one.io_type for one in schema.outputs],
            output_is_list=[one.is_output_list for one in schema.outputs],
            output_name=[one.display_name or one.io_type for one in schema.outputs],
            output_tooltips=[one.tooltip for one in schema.outputs],
            name=schema.node_id,
            display_name=schema.display_name,
            description=schema.description,
            category=schema.category,
            output_node=schema.is_output_node,
            deprecated=schema.is_deprecated,
            experimental=schema.is_experimental,
            api_node=schema.is_api_node,
        )
        return asdict(info)
