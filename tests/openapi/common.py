"""What both parts of the document are written with: kinds of values, shapes of objects, and what the gate answers to any request."""

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


def ref(kind, name):
    return {"$ref": f"#/components/{kind}/{name}"}


def schema(name):
    return ref("schemas", name)


STRING = {"type": "string"}
INTEGER = {"type": "integer"}
BOOLEAN = {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
URL = schema("Url")
VOLUME_STATES = [
    "creating", "available", "reserved", "attaching", "in-use", "detaching", "maintenance", "extending", "backing-up", "restoring-backup",
    "deleting", "error", "error_restoring", "error_extending", "error_deleting",
]


def text(description=None, **more):
    return {"type": "string"} | ({"description": description} if description else {}) | more


def number(description=None, **more):
    return {"type": "integer"} | ({"description": description} if description else {}) | more


def choice(*values, **more):
    return {"type": "string", "enum": list(values)} | more


def array(items, **more):
    return {"type": "array", "items": items} | more


def nullable(value):
    return {"anyOf": [value, {"type": "null"}]}


def described(value, description):
    return value | {"description": description}


def fixed(properties, optional=(), description=None):
    """A representation: exactly these fields."""
    out = {"type": "object"}
    if description:
        out["description"] = description
    return out | {
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def fields(properties, required=(), description=None):
    """The body of a request: these fields are looked at, others are ignored."""
    out = {"type": "object"}
    if description:
        out["description"] = description
    out["properties"] = properties
    return out | ({"required": list(required)} if required else {})


def body_of(name, description, headers=()):
    """A response with a JSON body. Headers are described under their own names, or under others that a dictionary gives."""
    out = {"description": description}
    if headers:
        names = headers if isinstance(headers, dict) else {header: header for header in headers}
        out["headers"] = {header: ref("headers", name) for header, name in names.items()}
    out["content"] = {JSON: {"schema": schema(name) if isinstance(name, str) else name}}
    return out


# The gate answers these before anybody looks at the path but for the form of the answer.
GATE_SCHEMAS = {
    "Url": {"type": "string", "format": "uri", "pattern": "^https?://"},
    "Detail": fixed({"detail": STRING}, description="Every error of the Waldur part but 400 for a body or a filter."),
}
GATE_HEADERS = {
    "Allow": {"description": "The methods of this path.", "schema": STRING},
    "Retry-After": {"description": "Seconds to wait.", "schema": COUNT},
}
GATE_RESPONSES = {
    "RequestTimeout": body_of("Detail", "The request took too long to arrive."),
    "UriTooLong": body_of("Detail", "The request line is longer than 8 KiB."),
    "ExpectationFailed": body_of("Detail", "Another expectation than 100-continue."),
    "HeadersTooLarge": body_of("Detail", "More than 100 header fields or 32 KiB of them."),
    "VersionNotSupported": body_of("Detail", "Another version than HTTP/1.1 and HTTP/1.0."),
    "MethodNotAllowed": body_of("Detail", "Any other method than those of this path.", ["Allow"]),
}
GATE_BY_CODE = {
    405: "MethodNotAllowed", 408: "RequestTimeout", 414: "UriTooLong", 417: "ExpectationFailed", 431: "HeadersTooLarge",
    505: "VersionNotSupported",
}
