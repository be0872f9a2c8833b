"""Changes of workflows in ComfyUI's own form, as a user makes them on the page."""

import copy


def _fresh(workflow):
    workflow = copy.deepcopy(workflow)
    numbers = [node["id"] for node in workflow["nodes"]]
    return workflow, max(numbers) + 1, max((link[0] for link in workflow["links"]), default=0) + 1


def _node(number, kind, inputs, outputs, **more):
    node = {"id": number, "type": kind, "pos": [0, 0], "size": [100, 30], "flags": {}, "order": 0, "mode": 0}
    return node | {"inputs": inputs, "outputs": outputs, "properties": {}} | more


def in_mode(workflow, number, mode):
    """The workflow with a node muted (2) or bypassed (4)."""
    workflow = copy.deepcopy(workflow)
    next(node for node in workflow["nodes"] if node["id"] == number)["mode"] = mode
    return workflow


def rerouted(workflow, place=0):
    """The workflow with a Reroute in a link."""
    workflow, node, link = _fresh(workflow)
    number, source, output, target, slot, kind = workflow["links"][place]
    workflow["links"][place] = [number, source, output, node, 0, kind]
    workflow["links"].append([link, node, 0, target, slot, kind])
    next(item for item in workflow["nodes"] if item["id"] == target)["inputs"][slot]["link"] = link
    workflow["nodes"].append(
        _node(
            node,
            "Reroute",
            [{"name": "", "type": "*", "link": number}],
            [{"name": kind, "type": kind, "links": [link]}],
        )
    )
    return workflow


def with_primitive(workflow, number, name, value):
    """The workflow with a primitive that feeds a widget of a node."""
    workflow, node, link = _fresh(workflow)
    target = next(item for item in workflow["nodes"] if item["id"] == number)
    slot = next(place for place, item in enumerate(target["inputs"]) if item["name"] == name)
    kind = target["inputs"][slot]["type"]
    target["inputs"][slot]["link"] = link
    workflow["links"].append([link, node, 0, number, slot, kind])
    output = {"name": kind, "type": kind, "widget": {"name": name}, "links": [link]}
    workflow["nodes"].append(_node(node, "PrimitiveNode", [], [output], widgets_values=[value, "fixed"]))
    return workflow


def with_picture(workflow, number):
    """The workflow with a Load Image at the first input of a node."""
    workflow, node, link = _fresh(workflow)
    target = next(item for item in workflow["nodes"] if item["id"] == number)
    target["inputs"][0]["link"] = link
    workflow["links"].append([link, node, 0, number, 0, "IMAGE"])
    outputs = [{"name": "IMAGE", "type": "IMAGE", "links": [link]}, {"name": "MASK", "type": "MASK", "links": None}]
    widget = {"name": "image", "type": "COMBO", "widget": {"name": "image"}, "link": None}
    workflow["nodes"].append(_node(node, "LoadImage", [widget], outputs, widgets_values=["a.png", "image"]))
    return workflow
