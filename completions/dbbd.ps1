# Completion of dbbd for PowerShell.
Register-ArgumentCompleter -Native -CommandName dbbd -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $Env:_DBBD_COMPLETE = "complete_powershell"
    $Env:_TYPER_COMPLETE_ARGS = $commandAst.ToString()
    $Env:_TYPER_COMPLETE_WORD_TO_COMPLETE = $wordToComplete
    # In --config=qr_ only what follows the = is completed, but the whole word is replaced.
    $prefix = if ($wordToComplete -match "^--[^=]+=") { $Matches[0] } else { "" }
    dbbd | ForEach-Object {
        $value, $help = $_ -split ":::"
        [System.Management.Automation.CompletionResult]::new($prefix + $value, $value, "ParameterValue", $help)
    }
    Remove-Item Env:_DBBD_COMPLETE, Env:_TYPER_COMPLETE_ARGS, Env:_TYPER_COMPLETE_WORD_TO_COMPLETE
}
