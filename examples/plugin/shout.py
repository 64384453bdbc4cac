#!/usr/bin/env python3
"""A plugin of examples/plugin/three, in Python."""
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "peers" / "python"))
import spawnwire
from calls import Calls, stream, unary


def plugin(_args):
    def change(_call, text):
        return f"{host.call('words.owner', None)} SHOUTS: {text.upper()}"

    def wait(call, _request):
        call.cancelled.wait(call.deadline and 60)
        call.check()

    def run(parent):
        global host
        host = Calls(parent, {"words.change": unary(change), "words.wait": unary(wait),
                              "words.split": stream(lambda _call, text: text.split())})
        host.serve()
    return run


spawnwire.main({"plugin": plugin})
