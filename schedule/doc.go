// Package schedule runs recurring work once for a whole service, whatever number of instances
// runs and whichever of them dies: "every weekday at 03:00". It needs the broker and nothing
// else.
//
//	schedules, err := schedule.New(setup, schedule.Config{})
//	err = schedules.Add("invoices", "0 3 * * 1-5", func(ctx context.Context, bus *harebus.Bus, due schedule.Due) error {
//		return sendInvoices(ctx, due.At)
//	}, schedule.In(berlin))
//
// Each due time becomes an ordinary message in the queue of the service: it is handled at least
// once, retried, and parked as any other, and its id is always the same. docs/schedules.md says
// how it works, and what is promised.
package schedule
