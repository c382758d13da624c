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
complete -c imapool -n "__fish_imapool_needs_command" -f -a "status" -d 'Tell how a running imapool is, by its admin address'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "top" -d 'Show accounts, sessions, hubs (mailboxes that sessions share), connections and backends of a running imapool, live'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "ctl" -d 'Change something in a running imapool'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "route" -d 'Tell which backend a user\'s sessions go to, and which rule says so'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "demo" -d 'Show what imapool does, on this host alone and without any IMAP server'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "service" -d 'Install, remove, start or stop the service of Windows'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "import" -d 'Make a configuration of another proxy\'s: up-imapproxy, nginx, Perdition, Dovecot'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "reference" -d 'Write the man pages, the shells\' completions or the schema of the configuration'
complete -c imapool -n "__fish_imapool_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand run" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand check" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand check" -l diff -d 'Tell also what is different from the configuration that the running imapool has (asked by the admin address of FILE, or --admin), or from another file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand check" -l admin -d 'With --diff: the running imapool\'s admin address' -r
complete -c imapool -n "__fish_imapool_using_subcommand check" -l connect -d 'Ask each server, too: resolve, connect, TLS, greeting and capabilities, without logging in. If one cannot be used, the exit status is 1, and it is told which step failed. Takes half a minute at most'
complete -c imapool -n "__fish_imapool_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand status" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand status" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand status" -l list -d 'A list instead: the first thousand of its rows' -r -f -a "accounts\t'Accounts'
sessions\t'Client sessions'
hubs\t'Mailboxes that sessions share'
connections\t'Connections to the servers'
backends\t'The servers'"
complete -c imapool -n "__fish_imapool_using_subcommand status" -l json -d 'As JSON, with everything that is known'
complete -c imapool -n "__fish_imapool_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand top" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand top" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "retire" -d 'Retire all connections of an account, and have its next login verified anew'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "close" -d 'Close a client session, or all of an account, a client or a listener: at rest by BYE, else as soon as its command is over'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "pause" -d 'Have sessions wait for connections to a backend, up to pool.checkout_timeout'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "drain" -d 'Pause a backend, end all connections to it, and close the sessions that hold one or are in a mailbox'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "resume" -d 'Have a backend serve again'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "trace" -d 'Log the commands and replies of an account for a while, without passwords, texts and messages'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "move" -d 'Move an account to another backend, whatever the routes say: its sessions end, its connections log out, then the other one serves it'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "kick" -d 'Close all sessions and connections of an account. Its next login is served as any'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "weight" -d 'Give a backend of a group another weight, until imapool ends: its share of the accounts, 0 for no new ones. Accounts that are there stay until they have had no session for the group\'s `stay`'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "evacuate" -d 'Empty a backend of a group: its weight is 0 from now on, and its accounts go to the others. Their sessions end by BYE, 200 accounts a second'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "reload" -d 'Read the configuration again, as SIGHUP does'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "wait-empty" -d 'Wait until no account has anything at a backend: no session, and no connection'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and not __fish_seen_subcommand_from retire close pause drain resume trace move kick weight evacuate reload wait-empty help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from retire" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from retire" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from retire" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from close" -l account -d 'All of this user; all that differ only in case and the like are meant' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from close" -l client -d 'All from this IP address, one from an address and port, or "unix": all by Unix sockets' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from close" -l listener -d 'All that came in by the listener of this name; those that have not logged in, too' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from close" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from close" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from close" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from pause" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from pause" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from pause" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from drain" -l wait -d 'Wait until no connection to it is open, for so long at most; if one still is then, fail' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from drain" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from drain" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from drain" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from resume" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from resume" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from trace" -l for -d 'For how long, at most an hour; "0s" ends it' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from trace" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from trace" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from trace" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from move" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from move" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from move" -l as-routed -d 'Back to where the routes say'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from move" -l keep-sessions -d 'Its sessions go on at the other one, which has a copy of the mail with the same UIDs: they notice nothing. Where a mailbox is not the same there, they hear BYE'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from move" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from kick" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from kick" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from kick" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from weight" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from weight" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from weight" -l as-configured -d 'As the configuration says'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from weight" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from evacuate" -l wait -d 'Wait until no account is there, for so long at most; if one still is then, fail' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from evacuate" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from evacuate" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from evacuate" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from reload" -l pid -d 'By SIGHUP to this process, which says what came of it in the directory that RUNTIME_DIRECTORY names. Needs no token: for ExecReload= of a systemd unit' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from reload" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from reload" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from reload" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from wait-empty" -l for -d 'For so long at most; if there still is one then, fail' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from wait-empty" -l admin -d 'Its admin address: IP address and port, or unix:/path. Default: that of the configuration, else 127.0.0.1:9143' -r
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from wait-empty" -s c -l config -d 'Its configuration, to take the admin address and the token from. Default, where no address is given: /etc/imapool/imapool.toml, if it can be read' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from wait-empty" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "retire" -d 'Retire all connections of an account, and have its next login verified anew'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "close" -d 'Close a client session, or all of an account, a client or a listener: at rest by BYE, else as soon as its command is over'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "pause" -d 'Have sessions wait for connections to a backend, up to pool.checkout_timeout'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "drain" -d 'Pause a backend, end all connections to it, and close the sessions that hold one or are in a mailbox'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "resume" -d 'Have a backend serve again'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "trace" -d 'Log the commands and replies of an account for a while, without passwords, texts and messages'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "move" -d 'Move an account to another backend, whatever the routes say: its sessions end, its connections log out, then the other one serves it'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "kick" -d 'Close all sessions and connections of an account. Its next login is served as any'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "weight" -d 'Give a backend of a group another weight, until imapool ends: its share of the accounts, 0 for no new ones. Accounts that are there stay until they have had no session for the group\'s `stay`'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "evacuate" -d 'Empty a backend of a group: its weight is 0 from now on, and its accounts go to the others. Their sessions end by BYE, 200 accounts a second'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "reload" -d 'Read the configuration again, as SIGHUP does'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "wait-empty" -d 'Wait until no account has anything at a backend: no session, and no connection'
complete -c imapool -n "__fish_imapool_using_subcommand ctl; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand route" -l listener -d 'The listener that the session would come by. Default: the first' -r
complete -c imapool -n "__fish_imapool_using_subcommand route" -l server-name -d 'What the client would call this host in TLS (SNI). Default: nothing' -r
complete -c imapool -n "__fish_imapool_using_subcommand route" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand route" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l sessions -d 'Sessions to run each way, in the second part' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l accounts -d 'Accounts the sessions take turns in' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l concurrency -d 'Sessions at once' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l login-cost -d 'How long the server takes to check a password, such as 5ms or 0s' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l server -d 'Which kind of server to run: dovecot, exchange, gmail and others, one that lacks an extension, lies, or dies at a step; "list" prints them all' -r
complete -c imapool -n "__fish_imapool_using_subcommand demo" -l keep -d 'Leave server and proxy running afterwards, until Ctrl-C, to try them out'
complete -c imapool -n "__fish_imapool_using_subcommand demo" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -f -a "install" -d 'Install it, to be started with the host. Needs an administrator, as all of these'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -f -a "uninstall" -d 'Stop it, and remove it; its files stay'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -f -a "start" -d 'Start it, and wait until it serves'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -f -a "stop" -d 'Stop it: commands that run may finish'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -f -a "run" -d 'What the service manager calls'
complete -c imapool -n "__fish_imapool_using_subcommand service; and not __fish_seen_subcommand_from install uninstall start stop run help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from install" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from install" -l account -d 'Under another account than its own: one that has no password, such as "NT AUTHORITY\\LocalService"' -r
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from install" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from uninstall" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from start" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from stop" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from run" -s c -l config -d 'The configuration, a TOML file' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from run" -l logs -d 'The folder of its log' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from run" -s h -l help -d 'Print help'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from help" -f -a "install" -d 'Install it, to be started with the host. Needs an administrator, as all of these'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from help" -f -a "uninstall" -d 'Stop it, and remove it; its files stay'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from help" -f -a "start" -d 'Start it, and wait until it serves'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from help" -f -a "stop" -d 'Stop it: commands that run may finish'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from help" -f -a "run" -d 'What the service manager calls'
complete -c imapool -n "__fish_imapool_using_subcommand service; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand import" -l from -d 'Whose it is, where that is not clear' -r -f -a "imapproxy\t''
nginx\t''
perdition\t''
dovecot\t''"
complete -c imapool -n "__fish_imapool_using_subcommand import" -l accounts -d 'The popmap or passwd-file, where it is not where the configuration says' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand import" -s o -l output -d 'Where to write, instead of standard output; must not exist yet' -r -F
complete -c imapool -n "__fish_imapool_using_subcommand import" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand reference" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "run" -d 'Serve until SIGTERM or SIGINT; commands that run then may finish'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "check" -d 'Tell whether a configuration is right, without running it'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "status" -d 'Tell how a running imapool is, by its admin address'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "top" -d 'Show accounts, sessions, hubs (mailboxes that sessions share), connections and backends of a running imapool, live'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "ctl" -d 'Change something in a running imapool'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "route" -d 'Tell which backend a user\'s sessions go to, and which rule says so'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "demo" -d 'Show what imapool does, on this host alone and without any IMAP server'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "service" -d 'Install, remove, start or stop the service of Windows'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "import" -d 'Make a configuration of another proxy\'s: up-imapproxy, nginx, Perdition, Dovecot'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "reference" -d 'Write the man pages, the shells\' completions or the schema of the configuration'
complete -c imapool -n "__fish_imapool_using_subcommand help; and not __fish_seen_subcommand_from run check status top ctl route demo service import reference help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "retire" -d 'Retire all connections of an account, and have its next login verified anew'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "close" -d 'Close a client session, or all of an account, a client or a listener: at rest by BYE, else as soon as its command is over'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "pause" -d 'Have sessions wait for connections to a backend, up to pool.checkout_timeout'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "drain" -d 'Pause a backend, end all connections to it, and close the sessions that hold one or are in a mailbox'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "resume" -d 'Have a backend serve again'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "trace" -d 'Log the commands and replies of an account for a while, without passwords, texts and messages'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "move" -d 'Move an account to another backend, whatever the routes say: its sessions end, its connections log out, then the other one serves it'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "kick" -d 'Close all sessions and connections of an account. Its next login is served as any'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "weight" -d 'Give a backend of a group another weight, until imapool ends: its share of the accounts, 0 for no new ones. Accounts that are there stay until they have had no session for the group\'s `stay`'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "evacuate" -d 'Empty a backend of a group: its weight is 0 from now on, and its accounts go to the others. Their sessions end by BYE, 200 accounts a second'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "reload" -d 'Read the configuration again, as SIGHUP does'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from ctl" -f -a "wait-empty" -d 'Wait until no account has anything at a backend: no session, and no connection'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from service" -f -a "install" -d 'Install it, to be started with the host. Needs an administrator, as all of these'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from service" -f -a "uninstall" -d 'Stop it, and remove it; its files stay'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from service" -f -a "start" -d 'Start it, and wait until it serves'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from service" -f -a "stop" -d 'Stop it: commands that run may finish'
complete -c imapool -n "__fish_imapool_using_subcommand help; and __fish_seen_subcommand_from service" -f -a "run" -d 'What the service manager calls'
