module github.com/harebus/harebus/schedule

go 1.26

replace github.com/harebus/harebus => ../

require (
	github.com/google/uuid v1.6.0
	github.com/harebus/harebus v0.0.0
	github.com/netresearch/go-cron v0.9.1
	github.com/rabbitmq/amqp091-go v1.16.0
	go.uber.org/goleak v1.3.0
	go.uber.org/zap v1.28.0
)

require (
	github.com/cenkalti/backoff/v4 v4.3.0 // indirect
	go.uber.org/multierr v1.10.0 // indirect
)
