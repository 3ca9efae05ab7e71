# Completion of dbbd for fish.
function __dbbd_complete
    set -lx _DBBD_COMPLETE complete_fish
    set -lx _TYPER_COMPLETE_FISH_ACTION get-args
    set -lx _TYPER_COMPLETE_ARGS (commandline --current-process --cut-at-cursor)
    # In --config=qr_ only what follows the = is completed, but fish expects the whole word.
    set -l prefix (commandline --current-token --cut-at-cursor | string match --regex -- '^--[^=]+=')
    for reply in (dbbd 2>/dev/null)
        printf '%s\n' "$prefix$reply"
    end
end
complete --command dbbd --no-files --arguments '(__dbbd_complete)'
