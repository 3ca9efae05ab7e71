# Completion of dbbd for PowerShell.
Register-ArgumentCompleter -Native -CommandName dbbd -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $Env:_DBBD_COMPLETE = "complete_powershell"
    $Env:_TYPER_COMPLETE_ARGS = $commandAst.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $wordToComplete
    dbbd | ForEach-Object {
        $value, $help = $_ -Split ":::"
        [System.Management.Automation.CompletionResult]::new($value, $value, "ParameterValue", $help)
    }
    $Env:_DBBD_COMPLETE = ""
    $Env:_TYPER_COMPLETE_ARGS = ""
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = ""
}
