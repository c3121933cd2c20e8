"""Where an error was raised: what tells errors apart that torch raises as plain RuntimeError, never their words."""


def list_torch_frames(error: BaseException) -> list[str]:
    """List the modules of torch that `error` came through before it reached code that is not torch's; innermost last.

    None where other code raised it. Compiled code leaves no frame: its caller is the innermost.
    """
    modules, traceback = [], error.__traceback__
    while traceback is not None:
        modules.append(str(traceback.tb_frame.f_globals.get("__name__")))
        traceback = traceback.tb_next
    first = len(modules)
    while first and modules[first - 1].split(".")[0] == "torch":
        first -= 1
    return modules[first:]
