package outbox_test

// victimEnv says that this process is a service that the crash test kills.
const victimEnv = "HAREBUS_OUTBOX_VICTIM"

func victim() {}
