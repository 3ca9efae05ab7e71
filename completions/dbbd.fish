# Completion of dbbd for fish.
function __dbbd_complete
    set -lx _DBBD_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _TYPER_COMPLETE_ARGS (commandline --current-process --cut-at-cursor)
    dbbd 2>/dev/null
end
complete --command dbbd --no-files --arguments '(__dbbd_complete)'
