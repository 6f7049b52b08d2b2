"""Writes xvip.toml for the lab: one dictionary in, the file's text out."""

import json


def value(v):
    """A TOML value; JSON strings, numbers and booleans are TOML as well."""
    if isinstance(v, dict):
        inner = ", ".join(f"{k} = {value(x)}" for k, x in v.items())
        return f"{{ {inner} }}"
    if isinstance(v, (list, tuple)):
        return f"[{', '.join(value(x) for x in v)}]"
    return json.dumps(v)


def table(header, pairs):
    """One `[header]` or `[[header]]` table; keys whose value is None are left out."""
    lines = [header]
    lines += [f"{key} = {value(v)}" for key, v in pairs.items() if v is not None]
    return "\n".join(lines) + "\n"


def real(address, weight=1, name=None, **more):
    """A `[[service.real]]` table."""
    return {"name": name, "address": address, "weight": weight, **more}


def service(name, listen, reals, forwarding="nat", scheduler="wrr", protocol="tcp", **more):
    """A `[[service]]` table with its reals."""
    listen = listen if isinstance(listen, list) else [listen]
    return {"name": name, "protocol": protocol, "listen": listen, "forwarding": forwarding,
            "scheduler": scheduler, **more, "real": reals}


def document(services, interfaces, cores=(0,), fullnat=(), connections=65536, poll="adaptive",
             node="lab", lease=None, timeouts=None, interface_keys=None, control=None,
             **engine):
    """The whole file."""
    parts = [
        table("[node]", {"name": node}),
        table("[engine]", {"cores": list(cores), "poll": poll, "connections": connections, **engine}),
    ]
    if lease or control:
        parts.append(table("[control]", {"lease": lease, **(control or {})}))
    if timeouts:
        parts.append(table("[timeouts]", timeouts))
    for name in interfaces:
        parts.append(table("[[interface]]", {"name": name, **(interface_keys or {})}))
    if fullnat:
        parts.append(table("[fullnat]", {"addresses": list(fullnat)}))
    for entry in services:
        parts.append(table("[[service]]", {k: v for k, v in entry.items() if k != "real"}))
        parts += [table("[[service.real]]", r) for r in entry["real"]]
    return "\n".join(parts)
