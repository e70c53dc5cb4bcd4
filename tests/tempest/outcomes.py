"""Reads a subunit stream and prints what became of each test, one JSON object a line. Runs in the venv that has Tempest."""

import json
import sys

from subunit import ByteStreamToStreamResult
from testtools import StreamToDict


def show(test):
    texts = {name: detail.as_text() for name, detail in test["details"].items() if detail.content_type.type == "text"}
    why = texts.get("reason") or texts.get("traceback") or "\n".join(texts.values())
    print(json.dumps({"id": test["id"], "status": test["status"], "why": why}))


result = StreamToDict(show)
result.startTestRun()
ByteStreamToStreamResult(sys.stdin.buffer, non_subunit_name="stdout").run(result)
result.stopTestRun()
