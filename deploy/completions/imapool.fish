# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_imapool_global_optspecs
    string join \n h/help V/version
end

function __fish_imapool_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_imapool_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_imapool_using_subcommand
    set -l cmd (__fish_imapool_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c imapool -n "__fish_imapool_needs_command" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_needs_command" -s V -l version -d 'Print version'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "run" -d 'Serve until SIGTERM or SIGINT; commands that run then may finish'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "check" -d 'Tell whether a configuration is right, without running it'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "demo" -d 'Show what imapool does, on this host alone and without any IMAP server'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "import" -d 'Make a configuration of up-imapproxy\'s'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "reference" -d 'Write the man pages, the shells\' completions or the schema of the configuration'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand run" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand check" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l sessions -d 'Sessions to run each way, in the second part' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l accounts -d 'Accounts the sessions take turns in' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l concurrency -d 'Sessions at once' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l login-cost -d 'How long the server takes to check a password, such as 5ms or 0s' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l keep -d 'Leave server and proxy running afterwards, until Ctrl-C, to try them out'
complete -c imapool -n "__fish_imapool_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand import" -s o -l output -d 'Where to write, instead of standard output; must not exist yet' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand import" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand reference" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check demo import reference help" -f -a "run" -d 'Serve until SIGTERM or SIGINT; commands that run then may finish'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check demo import reference help" -f -a "check" -d 'Tell whether a configuration is right, without running it'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check demo import reference help" -f -a "demo" -d 'Show what imapool does, on this host alone and without any IMAP server'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check demo import reference help" -f -a "import" -d 'Make a configuration of up-imapproxy\'s'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check demo import reference help" -f -a "reference" -d 'Write the man pages, the shells\' completions or the schema of the configuration'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check demo import reference help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
