# Completion of dbbd for bash.
_dbbd_completion() {
    local breaks= words=() index piece joins= typed prefix reply
    # Bash also splits words at = and : if COMP_WORDBREAKS contains them. Join the pieces.
    [[ $COMP_WORDBREAKS == *=* ]] && breaks+='='
    [[ $COMP_WORDBREAKS == *:* ]] && breaks+=':'
    for ((index = 0; index <= COMP_CWORD; index++)); do
        piece=${COMP_WORDS[index]}
        if ((index > 0)) && [[ -n $breaks && -n $piece && ($joins || $piece == [$breaks]*) ]]; then
            words[${#words[@]} - 1]+=$piece
        else
            words+=("$piece")
        fi
        joins=
        [[ -n $breaks && $piece == *[$breaks] ]] && joins=yes
    done
    # Bash replaces only what follows the last of these characters; replies must not repeat what precedes it.
    typed=${words[${#words[@]} - 1]}
    [[ $typed == --*=* ]] && typed=${typed#*=}
    prefix=
    [[ -n $breaks ]] && prefix=${typed%"${typed##*[$breaks]}"}
    COMPREPLY=()
    while IFS= read -r reply; do
        [[ -n $reply ]] || continue
        reply=${reply#"$prefix"}
        [[ $reply == *' '* ]] && printf -v reply %q "$reply"
        COMPREPLY+=("$reply")
    done < <(
        IFS=$'\n'
        COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _DBBD_COMPLETE=complete_bash command "$1" 2>/dev/null
    )
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _dbbd_completion dbbd
