"""Validates lines of JSON: schema.py DIRECTORY FILE... Every field that is written must be in its schema."""

import json
import pathlib
import sys

import jsonschema

directory, *files = sys.argv[1:]


def strict(schema):
    """Users must take fields that they do not know; this test must not."""
    if isinstance(schema, dict):
        if "properties" in schema:
            schema["additionalProperties"] = False
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)
    return schema


validators = {}
for path in pathlib.Path(directory).glob("ebusy.*.1.json"):
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validators[schema["title"]] = jsonschema.Draft202012Validator(strict(schema))

counts = {}
for file in files:
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            value = json.loads(line)
            name = value["schema"]
            error = jsonschema.exceptions.best_match(validators[name].iter_errors(value))
            if error is not None:
                sys.exit(f"{file} line {number}: {name}: {error.json_path}: {error.message[:500]}")
            counts[name] = counts.get(name, 0) + 1
print(json.dumps(counts, sort_keys=True))
