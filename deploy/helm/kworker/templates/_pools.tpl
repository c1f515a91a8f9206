{{/*
The pools that are enabled, each with what `defaults` says where it says nothing, as YAML: name -> pool.
A list or a map of options replaces the default's; scaling, resources and the like are merged.
*/}}
{{- define "kworker.pools" -}}
{{- $pools := dict -}}
{{- /* What `defaults` lack with --reuse-values: those of a chart before 0.3. */ -}}
{{- $startup := dict "periodSeconds" 2 "timeoutSeconds" 5 "failureThreshold" 60 -}}
{{- $liveness := dict "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 3 -}}
{{- $readiness := dict "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 2 -}}
{{- $older := dict "probes" (dict "startup" $startup "liveness" $liveness "readiness" $readiness) -}}
{{- range $name, $given := .Values.workers -}}
{{- $pool := mergeOverwrite (deepCopy $older) (deepCopy $.Values.defaults) (deepCopy (default dict $given)) -}}
{{- if $pool.enabled -}}
{{- $_ := set $pool "group" (default $name $pool.group) -}}
{{- $_ := set $pools $name $pool -}}
{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{/* Seconds of a duration such as 250ms, 25s, 5m, 2h or 1d, rounded up. */}}
{{- define "kworker.seconds" -}}
{{- $number := regexFind "^[0-9.]+" . | float64 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $factor := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) $unit -}}
{{- mulf $number $factor | ceil | int -}}
{{- end -}}

{{/* Whether the pool always has a pod: "true" or nothing. */}}
{{- define "kworker.keeps" -}}
{{- if or (eq .scaling.kind "hpa") (ge (int (ternary .replicas .scaling.min (eq .scaling.kind "fixed"))) 1) -}}true{{- end -}}
{{- end -}}

{{/* Whether its pods hand over delayed tasks, as far as the values say: "true" or nothing. */}}
{{- define "kworker.handsOver" -}}
{{- $given := list (toString (get .options "timekeeper")) -}}
{{- range .env -}}{{- if eq (toString .name) "KWORKER_TIMEKEEPER" -}}{{- $given = append $given (toString .value) -}}{{- end -}}{{- end -}}
{{- $off := regexMatch "(?m)^\\s*timekeeper\\s*=\\s*false" .config -}}
{{- range $given -}}{{- if has (lower .) (list "false" "no" "0") -}}{{- $off = true -}}{{- end -}}{{- end -}}
{{- if not $off -}}true{{- end -}}
{{- end -}}

{{/* Whether it always has one that does: "true" or nothing. */}}
{{- define "kworker.keepsTime" -}}
{{- if and (include "kworker.keeps" .) (include "kworker.handsOver" .) -}}true{{- end -}}
{{- end -}}

{{/* A value as text: whole numbers without the exponent that YAML's numbers get. */}}
{{- define "kworker.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* The environment that every container of ours has: where Kafka is, and its properties. */}}
{{- define "kworker.kafka" -}}
- name: KWORKER_BOOTSTRAP
  value: {{ .Values.kafka.bootstrap | quote }}
- name: KWORKER_NAMESPACE
  value: {{ .Values.namespace | quote }}
{{- range $name, $value := .Values.kafka.properties }}
- name: KWORKER_KAFKA_{{ $name | upper | replace "." "_" }}
  value: {{ include "kworker.text" $value | quote }}
{{- end }}
{{- range $name, $from := .Values.kafka.secretProperties }}
- name: KWORKER_KAFKA_{{ $name | upper | replace "." "_" }}_FILE
  value: {{ printf "/etc/kworker-secrets/%s" $name | quote }}
{{- end }}
{{- range $name, $from := .Values.kafka.secretFiles }}
- name: KWORKER_KAFKA_{{ $name | upper | replace "." "_" }}
  value: {{ printf "/etc/kworker-secrets/%s" $name | quote }}
{{- end }}
{{- end -}}

{{/* The environment of a pool's container: its options. Given: root, name, pool. */}}
{{- define "kworker.env" -}}
{{- $pool := .pool -}}
{{ include "kworker.kafka" .root }}
- name: KWORKER_GROUP
  value: {{ $pool.group | quote }}
- name: KWORKER_TOPIC
  value: {{ join "," $pool.topics | quote }}
- name: KWORKER_ORDER
  value: {{ $pool.order | quote }}
- name: KWORKER_CONCURRENCY
  value: {{ $pool.concurrency | int | quote }}
{{- if not (kindIs "invalid" $pool.processes) }}
- name: KWORKER_PROCESSES
  value: {{ $pool.processes | int | quote }}
{{- end }}
{{- with $pool.plugins }}
- name: KWORKER_PLUGIN
  value: {{ join "," . | quote }}
{{- end }}
- name: KWORKER_DRAIN_TIMEOUT
  value: {{ $pool.drainTimeout | quote }}
- name: KWORKER_REVOKE_TIMEOUT
  value: {{ $pool.revokeTimeout | quote }}
- name: KWORKER_LOG_FORMAT
  value: json
- name: KWORKER_LOG_LEVEL
  value: {{ $pool.logLevel | quote }}
- name: KWORKER_ADMIN_HOST
  value: "0.0.0.0"
- name: KWORKER_ADMIN_PORT
  value: "9464"
- name: KWORKER_CONFIG
  value: /etc/kworker/kworker.toml
{{- if $pool.stateful }}
- name: KWORKER_KAFKA_GROUP_INSTANCE_ID
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}
{{- range $option, $value := $pool.options }}
- name: KWORKER_{{ $option | upper | replace "-" "_" }}
  value: {{ include "kworker.text" $value | quote }}
{{- end }}
{{- with $pool.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A value as TOML, on one line. */}}
{{- define "kworker.toml" -}}
{{- if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}{{- $pairs = append $pairs (printf "%s = %s" (toRawJson $key) (include "kworker.toml" $value)) -}}{{- end -}}
{ {{ join ", " $pairs }} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}{{- $items = append $items (include "kworker.toml" .) -}}{{- end -}}
[{{ join ", " $items }}]
{{- else if kindIs "invalid" . -}}
{{- fail "schedules: a payload here cannot hold null: leave the key out" -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) (lt . 9e15) (gt . -9e15) -}}
{{ int64 . }}
{{- else -}}
{{ toRawJson . }}
{{- end -}}
{{- end -}}

{{/* The kworker.toml of a pool. An empty table removes the schedules that stood here; none says nothing of any. */}}
{{- define "kworker.settings" -}}
{{- with .config }}{{ . | trimSuffix "\n" }}
{{ end }}
{{- if kindIs "map" .schedules -}}
[schedules]
{{- range $name, $schedule := .schedules }}
[schedules.{{ toRawJson $name }}]
{{- range $key, $value := $schedule }}
{{ $key }} = {{ include "kworker.toml" $value }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* The volume source of a pool's kworker.toml. Given: pool, and the name of our own config map. */}}
{{- define "kworker.configVolume" -}}
{{- if .pool.existingConfigSecret -}}
secret: {secretName: {{ .pool.existingConfigSecret }}}
{{- else -}}
configMap: {name: {{ default .name .pool.existingConfigMap }}}
{{- end -}}
{{- end -}}

{{/* Containers beside ours: as restricted as it, where they say nothing of that. Given: root, containers. */}}
{{- define "kworker.beside" -}}
{{- $made := list -}}
{{- range .containers -}}
{{- $made = append $made (ternary . (merge (dict "securityContext" $.root.Values.securityContext) .) (hasKey . "securityContext")) -}}
{{- end -}}
{{- toYaml $made -}}
{{- end -}}

{{/* What a schema cannot see, or not say in words: what is not the user's, and pools that contradict themselves or each other. */}}
{{- define "kworker.contradictions" -}}
{{- $own := list "enable.auto.commit" "enable.auto.offset.store" "auto.commit.enable" "auto.offset.reset" "group.id" "bootstrap.servers" "metadata.broker.list" -}}
{{- range $property, $_ := merge dict .Values.kafka.properties .Values.kafka.secretProperties .Values.kafka.secretFiles -}}
{{- if has $property $own -}}
{{- fail (printf "kafka: %s is set by kworker itself: leave it out" $property) -}}
{{- end -}}
{{- end -}}
{{- $keys := dict "group" "group" "topic" "topics" "order" "order" "concurrency" "concurrency" "processes" "processes" "plugin" "plugins" "drain_timeout" "drainTimeout" "revoke_timeout" "revokeTimeout" "log_level" "logLevel" -}}
{{- $fixed := list "bootstrap" "namespace" "log_format" "admin_host" "admin_port" "config" -}}
{{- $groups := dict -}}
{{- $schedules := dict -}}
{{- $pools := include "kworker.pools" . | fromYaml -}}
{{- $timekeeper := false -}}
{{- range $pools -}}{{- if include "kworker.keepsTime" . -}}{{- $timekeeper = true -}}{{- end -}}{{- end -}}
{{- $interval := .Values.backlog.interval -}}
{{- $unit := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) (regexFind "[a-z]+$" $interval) -}}
{{- $seconds := mulf (regexFind "^[0-9.]+" $interval | float64) $unit -}}
{{- if or (lt $seconds 1.0) (gt $seconds 3600.0) -}}
{{- fail (printf "backlog.interval: %s is not between 1s and 1h" $interval) -}}
{{- end -}}
{{- $closed := and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) -}}
{{- if and $closed .Values.monitoring.podMonitor.enabled -}}
{{- fail "networkPolicy.from: say where Prometheus is, for monitoring.podMonitor: by default only the release's own namespace is let in" -}}
{{- end -}}
{{- if and $pools (not .Values.image.repository) -}}
{{- fail "image.repository: name the image that you built with your plugins (docs/how-to/deploy.md); there is none that everybody could pull" -}}
{{- end -}}
{{- range $name, $pool := $pools -}}
{{- $where := printf "workers.%s" $name -}}
{{- if or (has $name (list "backlog" "dashboards" "topics" "monitoring" "workers")) (hasSuffix "-topics" $name) -}}
{{- fail (printf "%s: the chart names objects of its own so: name the pool otherwise" $where) -}}
{{- end -}}
{{- if and $closed (eq $pool.scaling.kind "keda") -}}
{{- fail (printf "networkPolicy.from: say where KEDA is, for %s.scaling: by default only the release's own namespace is let in" $where) -}}
{{- end -}}
{{- if not (or (ne $pool.scaling.kind "keda") (include "kworker.keeps" $pool) (include "kworker.handsOver" $pool) $timekeeper $pool.scaling.timekeeperElsewhere) -}}
{{- fail (printf "%s.scaling.min: with 0 and without its timekeeper nobody hands over delayed tasks, long retries and schedules: leave the timekeeper on, or give another pool a pod that stays and its timekeeper, or say scaling.timekeeperElsewhere: true" $where) -}}
{{- end -}}
{{- range $option, $_ := $pool.options -}}
{{- $option = $option | replace "-" "_" -}}
{{- if hasKey $keys $option -}}
{{- fail (printf "%s.options: %s has a key of its own: %s.%s" $where $option $where (get $keys $option)) -}}
{{- else if has $option $fixed -}}
{{- fail (printf "%s.options: %s is the same for the whole release: leave it out" $where $option) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $pool.scaling.kind "keda") (not $.Values.backlog.enabled) -}}
{{- fail (printf "%s.scaling.kind: keda scales on the true backlog: set backlog.enabled" $where) -}}
{{- end -}}
{{- if and (ne $pool.scaling.kind "fixed") (lt (int $pool.scaling.max) (int $pool.scaling.min)) -}}
{{- fail (printf "%s.scaling: max is less than min" $where) -}}
{{- end -}}
{{- if and $pool.stateful (eq (lower (toString (get $.Values.kafka.properties "group.protocol"))) "consumer") -}}
{{- fail (printf "%s.stateful: static members need the classic protocol: leave group.protocol out of kafka.properties" $where) -}}
{{- end -}}
{{- if and (eq (toString $pool.maxSurge | trimSuffix "%") "0") (eq (toString $pool.maxUnavailable | trimSuffix "%") "0") -}}
{{- fail (printf "%s: maxSurge and maxUnavailable are both 0, so no update could go on" $where) -}}
{{- end -}}
{{- if and $pool.existingConfigMap $pool.existingConfigSecret -}}
{{- fail (printf "%s: existingConfigMap and existingConfigSecret are both given: leave one out" $where) -}}
{{- end -}}
{{- if and (or $pool.existingConfigMap $pool.existingConfigSecret) (or $pool.config $pool.schedules) -}}
{{- fail (printf "%s: config and schedules are not used with an existing config map or secret: write them into it" $where) -}}
{{- end -}}
{{- if hasKey $groups $pool.group -}}
{{- fail (printf "%s.group: %s is the group of workers.%s too: give each pool its own" $where $pool.group (get $groups $pool.group)) -}}
{{- end -}}
{{- $_ := set $groups $pool.group $name -}}
{{- range $schedule, $given := $pool.schedules -}}
{{- $times := list -}}
{{- range list "cron" "every" "at" -}}{{- if hasKey $given . -}}{{- $times = append $times . -}}{{- end -}}{{- end -}}
{{- if ne (len $times) 1 -}}
{{- fail (printf "%s.schedules.%s: give one of cron, every and at" $where $schedule) -}}
{{- end -}}
{{- if hasKey $schedules $schedule -}}
{{- fail (printf "%s.schedules.%s: workers.%s has one of this name too: name it otherwise" $where $schedule (get $schedules $schedule)) -}}
{{- end -}}
{{- $_ := set $schedules $schedule $name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One volume that holds every secret of Kafka under the name of its property; nothing when there is none. */}}
{{- define "kworker.secretVolume" -}}
{{- $from := merge dict .Values.kafka.secretProperties .Values.kafka.secretFiles -}}
{{- with $from }}
- name: kafka-secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $place := . }}
      - secret:
          name: {{ $place.secret }}
          items:
            - {key: {{ $place.key | quote }}, path: {{ $name | quote }}}
      {{- end }}
{{- end }}
{{- end -}}
