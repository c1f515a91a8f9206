{{/*
The pools that are enabled, each with what `defaults` says where it says nothing, as YAML: name -> pool.
A list or a map of options replaces the default's; scaling, resources and the like are merged.
*/}}
{{- define "kworker.pools" -}}
{{- $pools := dict -}}
{{- range $name, $given := .Values.workers -}}
{{- $pool := mergeOverwrite (deepCopy $.Values.defaults) (deepCopy (default dict $given)) -}}
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

{{/* A value as text: whole numbers without the exponent that YAML's numbers get. */}}
{{- define "kworker.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ int64 . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* The environment of a pool's container: its options. Given: root, name, pool. */}}
{{- define "kworker.env" -}}
{{- $pool := .pool -}}
- name: KWORKER_BOOTSTRAP
  value: {{ .root.Values.kafka.bootstrap | quote }}
- name: KWORKER_NAMESPACE
  value: {{ .root.Values.namespace | quote }}
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

{{/* [kafka] of kworker.toml: properties, and those whose values are files of secrets. */}}
{{- define "kworker.kafka" -}}
{{- $kafka := .Values.kafka -}}
[kafka]
{{- range $name, $value := $kafka.properties }}
{{ $name | quote }} = {{ include "kworker.text" $value | quote }}
{{- end }}
{{- range $name, $from := $kafka.secretProperties }}
{{ printf "%s.file" $name | quote }} = {{ printf "/etc/kworker-secrets/%s" $name | quote }}
{{- end }}
{{- range $name, $from := $kafka.secretFiles }}
{{ $name | quote }} = {{ printf "/etc/kworker-secrets/%s" $name | quote }}
{{- end }}
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
