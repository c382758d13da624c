(.*)@example\.org: mail1.example.org
^anna@example.org$: mail2.example.org
^bert$:mail2.example.org
(.*)@(.*): $2
[ab].*:mail3.example.org
.*: mail4.example.org
^late$: mail1.example.org
