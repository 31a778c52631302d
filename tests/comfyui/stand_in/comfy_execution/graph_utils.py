from __future__ import annotations


class Node:
    def __init__(self, id, class_type, inputs):
        self.id = id
        self.class_type = class_type
        self.inputs = inputs

    def out(self, index):
        return [self.id, index]


class GraphBuilder:
    def __init__(self, prefix=None):
        self.nodes = {}

    def node(self, class_type, id=None, **kwargs):
        made = Node(str(len(self.nodes) + 1) if id is None else id, class_type, kwargs)
        self.nodes[made.id] = made
        return made

    def finalize(self):
        return {
            name: {
                "class_type": node.class_type,
                "inputs": node.inputs,
                "override_display_id": None,
            }
            for name, node in self.nodes.items()
        }


class ExecutionBlocker:
    def __init__(self, message):
        self.message = message
